# shellcheck shell=bash
# shellcheck disable=SC2034
# What the lab's scripts share. Sourced, never run.
#
# A cluster lives in a folder of its caller's choice (DIR). Every name outside of
# it (network namespaces, cgroups) is derived from its path, so that clusters side
# by side do not meet and `k8s-down.sh DIR` finds everything from DIR alone.
# Addresses may repeat: each cluster's network is its own, with no way out.
K8S_VERSION=1.34.4
LAB="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/millrace/lab"
KUBE="$CACHE/kube-$K8S_VERSION-$(cat "$LAB"/kube/{main.go,go.mod} | sha256sum | cut -c1-8)"
REGISTRY=lab.millrace.dev   # of images that exist only here: a dotted name is never looked up elsewhere

CONTROL_IP=10.89.0.1
DNS_IP=10.96.0.10
SERVICES=10.96.0.0/16
PODS=10.88.0.0/16
node_ip() { echo "10.89.0.$((10 + $1))"; }
node_pods() { echo "10.88.$1.0/24"; }

say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

# use DIR: the names of the cluster in DIR.
use() {
  DIR="$(realpath -m "$1")"
  [ ${#DIR} -le 80 ] || die "$DIR is too long for the path of a socket in it: 80 characters at most"
  case "$DIR" in /run/* | /var/lib/*) die "$DIR would be hidden from the nodes, which have a /run and a /var/lib of their own" ;; esac
  ID="millrace-$(printf %s "$DIR" | sha256sum | cut -c1-8)"
  export KUBECONFIG="$DIR/inside.kubeconfig"
}

in_control() { nsenter --net="/run/netns/$ID" "$@"; }
kubectl() { in_control "$KUBE/bin/kubectl" "$@"; }

# until_ok SECONDS CMD...: repeats CMD until it succeeds.
until_ok() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

# alone CMD...: runs CMD in the background, free of the caller's terminal, output and lock files.
alone() { local log=$1; shift; setsid nohup "$@" >>"$log" 2>&1 </dev/null 9>&- & }

# part_start NAME: starts a part of the control plane as written in DIR/parts/NAME.
part_start() { alone "$DIR/$1.log" "$DIR/parts/$1"; echo $! >"$DIR/$1.pid"; }

# corefile SECONDS: what DNS is told; it remembers answers for so long, also that there is no such name.
corefile() {
  local cache=
  [ "$1" = 0 ] || cache="cache { success 9984 $1 $1
    denial 9984 $1 $1
  }"
  cat >"$DIR/Corefile" <<C
.:53 {
  bind $CONTROL_IP
  errors
  ${cache/ success/
    success}
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $KUBECONFIG
    ttl 2
  }
}
C
}

# part NAME CMD...: notes how NAME is started, for later restarts, and starts it.
part() {
  local name=$1; shift
  { echo '#!/bin/sh'; printf 'exec nsenter --net=/run/netns/%s' "$ID"; printf " '%s'" "$@"; echo; } >"$DIR/parts/$name"
  chmod +x "$DIR/parts/$name"
  part_start "$name"
}
