#!/usr/bin/env bash
# k8s-in.sh DIR CMD...: runs CMD in the network of the cluster in DIR.
#
# Pod addresses, service addresses and cluster DNS names work for it, and kubectl
# and helm are in its PATH with a kubeconfig that works there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
shift
printf 'nameserver %s\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n' $CONTROL_IP >"$DIR/resolv.conf"
export PATH="$KUBE/bin:$PATH"
# shellcheck disable=SC2016
exec nsenter --net="/run/netns/$ID" unshare --mount --propagation private sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$@"' "$DIR/resolv.conf" "$@"
