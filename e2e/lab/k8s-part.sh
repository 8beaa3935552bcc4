#!/usr/bin/env bash
# k8s-part.sh start|kill|pause|resume DIR PART: what a scenario does to a part of the control plane.
#
# Parts: etcd, apiserver, controllers, scheduler, coredns. `kill` is SIGKILL.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$2"
[ -x "$DIR/parts/$3" ] || die "no part $3 in $DIR"
pid="$(cat "$DIR/$3.pid")"
# A zombie that nobody has buried yet is gone.
gone() { case "$(ps -o stat= -p "$pid")" in '' | Z*) ;; *) return 1 ;; esac; }
case $1 in
start) ! gone || part_start "$3" ;;
kill)
  kill -9 "$pid"
  until_ok 10 gone || die "$3 does not die"
  ;;
pause) kill -STOP "$pid" ;;
resume) kill -CONT "$pid" ;;
*) die "k8s-part.sh start|kill|pause|resume DIR PART" ;;
esac
