#!/usr/bin/env bash
# k8s-part.sh start|kill|pause|resume DIR PART: what a scenario does to a part of the control plane.
#
# Parts: etcd, apiserver, controllers, scheduler, coredns. `kill` is SIGKILL.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$2"
[ -x "$DIR/parts/$3" ] || die "no part $3 in $DIR"
pid="$(cat "$DIR/$3.pid")"
case $1 in
start) kill -0 "$pid" 2>/dev/null || part_start "$3" ;;
kill) kill -9 "$pid" ;;
pause) kill -STOP "$pid" ;;
resume) kill -CONT "$pid" ;;
*) die "k8s-part.sh start|kill|pause|resume DIR PART" ;;
esac
