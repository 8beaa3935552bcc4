#!/usr/bin/env bash
# k8s-mend.sh DIR: starts again whatever of the cluster in DIR was killed or paused.
#
# What a failed scenario broke must not fail the next one.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
for part in "$DIR"/parts/*; do
  "$LAB/k8s-part.sh" start "$DIR" "${part##*/}"
  "$LAB/k8s-part.sh" resume "$DIR" "${part##*/}"
done
"$LAB/k8s-dns.sh" "$DIR" 0
until_ok 60 kubectl get --raw /readyz || die "the API server is not ready after 60 s; see $DIR/apiserver.log"
for init in "$DIR"/n*/init.pid; do
  node="$(basename "$(dirname "$init")")"
  kill -0 "$(cat "$init")" 2>/dev/null || "$LAB/k8s-node.sh" start "$DIR" "${node#n}"
done
for init in "$DIR"/n*/init.pid; do
  node="$(basename "$(dirname "$init")")"
  "$LAB/k8s-node.sh" wait "$DIR" "${node#n}"
done
