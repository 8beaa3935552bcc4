#!/usr/bin/env bash
# k8s-dns.sh DIR SECONDS: the DNS of the cluster in DIR remembers its answers for so long; 0: it does not.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
corefile "$2"
"$LAB/k8s-part.sh" kill "$DIR" coredns
"$LAB/k8s-part.sh" start "$DIR" coredns
until_ok 30 "$LAB/k8s-in.sh" "$DIR" getent hosts kubernetes.default.svc.cluster.local ||
  die "DNS does not answer after 30 s; see $DIR/coredns.log"
