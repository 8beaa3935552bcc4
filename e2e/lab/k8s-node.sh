#!/usr/bin/env bash
# k8s-node.sh start|kill|wait DIR N: powers node N of the cluster in DIR on, off, or waits until it is Ready.
# k8s-node.sh run DIR N CMD...: runs CMD on node N, where `ctr` reaches its containers.
#
# A node is one process in namespaces of its own (PID, mount, UTS, IPC, network):
# SIGKILL of it is a machine that lost power, with all of its containers. Its disk
# (images, containers) stays in DIR/nN for the next start.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$2"
n=$3
home="$DIR/n$n"
case $1 in
start)
  mkdir -p "$home"
  alone "$home/init.log" nsenter --net="/run/netns/$ID-n$n" \
    unshare --mount --pid --uts --ipc --fork --mount-proc --kill-child "$LAB/node-init.sh" "$DIR" "$n"
  parent=$!
  until_ok 10 pgrep -P $parent || die "node $n did not start; see $home/init.log"
  pgrep -P $parent >"$home/init.pid"
  ;;
kill) kill -9 "$(cat "$home/init.pid")" ;;
wait)
  until_ok 60 kubectl get node "n$n" || die "node $n did not register within 60 s; see $home/kubelet.log"
  kubectl wait --for=condition=Ready "node/n$n" --timeout=60s >/dev/null || die "node $n is not Ready after 60 s; see $home/kubelet.log"
  ;;
run) exec nsenter --target "$(cat "$home/init.pid")" --mount --net --pid --uts --ipc "${@:4}" ;;
*) die "k8s-node.sh start|kill|wait|run DIR N" ;;
esac
