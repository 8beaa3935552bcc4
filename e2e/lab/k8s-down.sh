#!/usr/bin/env bash
# k8s-down.sh DIR [--keep-logs]: ends everything of the cluster in DIR and leaves nothing behind.
#
# Works from DIR's path alone, after any failure and at any time; nothing to do
# if there is no cluster. Everything started is found by where it runs (the
# cluster's network namespaces) or by its command line naming DIR.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
command -v ip >/dev/null || exit 0
shopt -s nullglob

spaces=(/run/netns/"$ID"-n*)
[ ! -e "/run/netns/$ID" ] || spaces+=("/run/netns/$ID")
# Processes outside of the namespaces: relays and the watch over the owner. Not
# this process, nor the watch that has become it.
outside() {
  local p
  for p in /proc/[0-9]*; do
    p=${p#/proc/}
    [ "$p" != $$ ] && [ "$p" != "$PPID" ] || continue
    case "$({ tr '\0' ' ' <"/proc/$p/cmdline"; } 2>/dev/null)" in
      "socat "*"UNIX-CONNECT:$DIR/"* | "sh -c while kill -0"*" $DIR "*) echo "$p" ;;
    esac
  done
}
everyone() {
  outside
  local s
  for s in "${spaces[@]}"; do ip netns pids "${s##*/}" 2>/dev/null; done
}

for _ in $(seq 100); do
  mapfile -t left < <(everyone)
  [ ${#left[@]} -gt 0 ] || break
  kill -9 "${left[@]}" 2>/dev/null
  sleep 0.05
done
for s in "${spaces[@]}"; do ip netns del "${s##*/}"; done
# The root of every hierarchy (v1), or the only one (v2).
cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$ID"; }
for _ in $(seq 200); do
  mapfile -t left < <(cgroups)
  [ ${#left[@]} -gt 0 ] || break
  find "${left[@]}" -depth -type d -exec rmdir {} + 2>/dev/null
  sleep 0.05
done
if [ "${2:-}" = --keep-logs ]; then
  rm -rf "$DIR"/{etcd,pki,parts,n*/containerd,n*/kubelet,*.sock,*.pid,*kubeconfig}
else
  rm -rf "$DIR"
fi

mapfile -t left < <(everyone; cgroups; grep -o "$DIR/[^ ]*" /proc/self/mountinfo)
[ ${#left[@]} -eq 0 ] || die "left behind: ${left[*]}"
