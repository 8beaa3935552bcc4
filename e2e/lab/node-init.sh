#!/usr/bin/env bash
# node-init.sh DIR N: process 1 of node N; k8s-node.sh starts it in its namespaces.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
n=$2
home="$DIR/n$n"
ip="$(node_ip "$n")"
hostname "n$n"

# A file system of the node's own where the runtime and the kubelet write.
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -p /run/netns /run/lock /run/etc/cni
for d in kubelet containerd; do
  mkdir -p "$home/$d" "/var/lib/$d"
  mount --bind "$home/$d" "/var/lib/$d"
done
mkdir -p "$home/log"
mount --bind "$home/log" /var/log
# A sysfs of this network namespace, with the cgroups carried over.
mkdir -p /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount -l /run/cgroup
# The kubelet wants these machine-wide values: it is shown them, and the machine stays as it is.
mkdir -p /run/tunables
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file="/run/tunables/${setting##*/}"
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
mount --make-rshared /

# The node's cgroup, in every hierarchy (v1) or with its controllers (v2).
group="$ID/n$n"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mkdir -p "/sys/fs/cgroup/$group"
  for above in /sys/fs/cgroup "/sys/fs/cgroup/$ID"; do
    for c in cpuset cpu io memory hugetlb pids; do echo "+$c" >"$above/cgroup.subtree_control"; done
  done 2>/dev/null
else
  for hierarchy in /sys/fs/cgroup/*/; do
    { [ -e "$hierarchy/cgroup.procs" ] && [ ! -e "$hierarchy/cgroup.controllers" ]; } || continue
    # What a power-off left: the kubelet would look at each for 3 s at its start.
    [ -d "$hierarchy/$group" ] && find "$hierarchy/$group" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null
    mkdir -p "$hierarchy/$group"
    [ -e "$hierarchy/cpuset.cpus" ] || continue
    for d in "$hierarchy/$ID" "$hierarchy/$group"; do
      cat "$hierarchy/cpuset.cpus" >"$d/cpuset.cpus"
      cat "$hierarchy/cpuset.mems" >"$d/cpuset.mems"
    done
  done
fi

ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null   # pods of one node reach each other's services through it
cat >/run/etc/cni/10-lab.conflist <<J
{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$(node_pods "$n")"}]],
            "routes": [{"dst": "$PODS"}, {"dst": "${CONTROL_IP%.*}.0/24"}, {"dst": "$SERVICES"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": false}
]}
J
# restrict_oom_score_adj: without CAP_SYS_RESOURCE negative scores are refused, and every sandbox dies.
cat >/run/etc/containerd.toml <<T
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$REGISTRY/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stats_collect_period = 30
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/etc/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
T
cat >/run/etc/kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ip
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $DIR/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $DIR/pki/n$n.crt
tlsPrivateKeyFile: $DIR/pki/n$n.key
rotateCertificates: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$group
failCgroupV1: false
failSwapOn: false
clusterDNS: [$DNS_IP]
clusterDomain: cluster.local
resolvConf: ""
protectKernelDefaults: true
evictionHard: {memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 4s
nodeStatusReportFrequency: 30s
nodeLeaseDurationSeconds: 12
serializeImagePulls: false
volumePluginDir: /var/lib/kubelet/volumeplugins
Y
cat >/run/etc/proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $PODS
hostnameOverride: n$n
clientConnection: {kubeconfig: $KUBECONFIG}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y

containerd --config /run/etc/containerd.toml >>"$home/containerd.log" 2>&1 &
until_ok 30 ctr version || say "containerd does not answer after 30 s; see $home/containerd.log"
for image in "$KUBE"/images/*.tar; do
  ctr -n k8s.io images import "$image" >>"$home/images.log" 2>&1 || say "import of $image failed; see $home/images.log"
done

# keep NAME CMD...: runs CMD, again a second after it has ended.
keep() {
  local log="$home/$1.log"
  shift
  while :; do
    "$@" >>"$log" 2>&1
    echo "ended with $?" >>"$log"
    sleep 1
  done
}
keep kubelet "$KUBE/bin/kubelet" --config /run/etc/kubelet.yaml --kubeconfig "$DIR/n$n.kubeconfig" --root-dir /var/lib/kubelet \
  --cert-dir /run/kubelet-pki --hostname-override "n$n" --node-ip "$ip" --v=1 &
keep kube-proxy "$KUBE/bin/kube-proxy" --config /run/etc/proxy.yaml --v=1 &
while :; do
  wait
  sleep 1
done
