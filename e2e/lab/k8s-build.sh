#!/usr/bin/env bash
# k8s-build.sh: makes what a lab cluster consists of, once, in the cache.
#
# Debian packages (container runtime, network tools), one Go binary with every part
# of Kubernetes in it, helm, and the images pause and busybox. 7 minutes from
# nothing on two cores; nothing to do when it is there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
mkdir -p "$KUBE/bin" "$KUBE/images"
exec 9>"$CACHE/k8s-build.lock"
flock 9   # a second caller waits for what the first one makes

packages=(containerd runc containernetworking-plugins busybox-static nftables iptables conntrack socat
  iproute2 ethtool kmod openssl procps util-linux gcc libc6-dev)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
  say "installing ${packages[*]}"
  # A containerd of the machine's own must not be started by its package.
  policy=/usr/sbin/policy-rc.d
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; trap 'rm -f $policy' EXIT; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if [ ! -e "$KUBE/built" ]; then
  export PATH="$PATH:/usr/local/go/bin" CGO_ENABLED=0
  say "building Kubernetes $K8S_VERSION in $KUBE"
  v=k8s.io/component-base/version
  minor=${K8S_VERSION#*.}
  cd "$LAB/kube"
  nice go build -mod=readonly -trimpath -o "$KUBE/bin/" \
    -ldflags "-s -w -X $v.gitVersion=v$K8S_VERSION -X $v.gitMajor=1 -X $v.gitMinor=${minor%.*} -X $v.gitTreeState=clean" \
    millrace.dev/lab/kube helm.sh/helm/v3/cmd/helm
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl coredns; do
    ln -sf kube "$KUBE/bin/$name"
  done
  touch "$KUBE/built"
fi

# made IMAGE: whether IMAGE is there and newer than what makes it.
made() { [ "$KUBE/images/$1.tar" -nt "$LAB/image.sh" ]; }
if ! made pause; then
  gcc -Os -static -s -o "$KUBE/bin/pause" "$LAB/pause.c"
  "$LAB/image.sh" "$KUBE/images/pause.tar" $REGISTRY/pause:1 "$KUBE/bin/pause"
fi
if ! made busybox; then
  # Called by the name of one of its applets, which a link to it is.
  mapfile -t applets < <(busybox --list | sed -n '/^busybox$/d; s#.*#bin/&=/app#p')
  "$LAB/image.sh" "$KUBE/images/busybox.tar" $REGISTRY/busybox:1 "$(command -v busybox)" "${applets[@]}"
fi
