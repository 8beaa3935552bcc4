#!/usr/bin/env bash
# check.sh: can a lab cluster be brought up on this machine? Says why not and ends with 1.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

[ "$(uname -sm)" = "Linux x86_64" ] || die "a lab cluster needs Linux on x86_64"
[ "$(id -u)" = 0 ] || die "a lab cluster needs root: it makes network namespaces, mounts and cgroups"
unshare --net --mount --pid --uts --ipc --fork true 2>/dev/null || die "a lab cluster needs namespaces, and this machine refuses them (unshare fails)"
[ -w /sys/fs/cgroup ] && [ -d /sys/fs/cgroup ] || die "a lab cluster needs cgroups it may write, and /sys/fs/cgroup is not writable"
[ -e "$KUBE/built" ] || PATH="$PATH:/usr/local/go/bin" command -v go >/dev/null || die "a lab cluster is built with Go 1.24 or newer: put it into PATH or /usr/local/go"
command -v containerd >/dev/null || command -v apt-get >/dev/null || die "a lab cluster needs containerd, runc, CNI plugins and nftables, and there is no apt-get to install them"
