#!/usr/bin/env bash
# k8s-load.sh DIR IMAGE.tar...: imports image archives on every running node of the cluster in DIR.
#
# Before the pods that want them: an image imported late leaves a pod in back-off.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
shift
for init in "$DIR"/n*/init.pid; do
  node="$(basename "$(dirname "$init")")"
  kill -0 "$(cat "$init")" 2>/dev/null || continue   # powered off
  for image; do
    "$LAB/k8s-node.sh" run "$DIR" "${node#n}" ctr -n k8s.io images import "$(realpath "$image")" >/dev/null || die "import of $image on $node failed"
  done
done
