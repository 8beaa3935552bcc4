#!/usr/bin/env bash
# k8s-up.sh NODES DIR [OWNER]: a Kubernetes cluster in network namespaces of its own.
#
# Afterwards DIR/kubeconfig works from outside (through a port on loopback) and
# k8s-in.sh runs a command inside, where pod addresses and cluster DNS work. With
# OWNER (a process id) the cluster goes when that process has ended, however it
# ended; else k8s-down.sh DIR takes it down. A cluster that is already in DIR is
# taken down first.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
nodes=$1
use "$2"
owner=${3:-}
"$LAB/check.sh"
"$LAB/k8s-build.sh"
"$LAB/k8s-down.sh" "$DIR"
mkdir -p "$DIR/parts"
up=
trap '[ -n "$up" ] || { "$LAB/k8s-down.sh" "$DIR" --keep-logs; say "the cluster did not come up; its logs are in $DIR"; }' EXIT
if [ -n "$owner" ]; then
  # shellcheck disable=SC2016
  alone "$DIR/watch.log" sh -c 'while kill -0 "$0" 2>/dev/null; do sleep 0.5; done; exec "$1" "$2" >/dev/null 2>&1' "$owner" "$LAB/k8s-down.sh" "$DIR"
fi
"$LAB/pki.sh" "$DIR" "$nodes"

# Networks: the control plane's namespace holds a bridge, each node hangs on it.
ip netns add "$ID"
in_control sysctl -qw net.ipv4.ip_forward=1
in_control ip link set lo up
in_control ip link add nodes type bridge
in_control ip addr add $CONTROL_IP/24 dev nodes
in_control ip link set nodes up
for i in $(seq "$nodes"); do
  ip netns add "$ID-n$i"
  on_node() { nsenter --net="/run/netns/$ID-n$i" "$@"; }
  in_control ip link add "n$i" type veth peer name eth0 netns "$ID-n$i"
  in_control ip link set "n$i" master nodes up
  on_node ip link set lo up
  on_node ip addr add "$(node_ip "$i")/24" dev eth0
  on_node ip link set eth0 up
  on_node ip route add $SERVICES via $CONTROL_IP   # a route must exist; kube-proxy rewrites the address before it is taken
  for other in $(seq "$nodes"); do
    [ "$other" = "$i" ] || on_node ip route add "$(node_pods "$other")" via "$(node_ip "$other")"
  done
  in_control ip route add "$(node_pods "$i")" via "$(node_ip "$i")"
done
in_control ip route add $SERVICES via "$(node_ip 1)"   # node 1 rewrites service addresses for what runs in here

pki="$DIR/pki"
etcd=http://127.0.0.1:2379
part etcd "$KUBE/bin/etcd" --data-dir "$DIR/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls $etcd --advertise-client-urls $etcd \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
# What service accounts ask for, one JSON object a line: so that roles can be compared with it.
cat >"$DIR/audit.yaml" <<Y
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
Y
part apiserver "$KUBE/bin/kube-apiserver" --etcd-servers=$etcd --advertise-address=$CONTROL_IP --secure-port=6443 \
  --service-cluster-ip-range=$SERVICES --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --client-ca-file="$pki/ca.crt" --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=none --requestheader-username-headers=X-Remote-User \
  --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
  --kubelet-certificate-authority="$pki/ca.crt" --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" --kubelet-preferred-address-types=InternalIP \
  --service-account-key-file="$pki/service-accounts.pub" --service-account-signing-key-file="$pki/service-accounts.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --audit-policy-file="$DIR/audit.yaml" --audit-log-path="$DIR/audit.log" --profiling=false --v=1
until_ok 60 kubectl get --raw /readyz || die "the API server is not ready after 60 s; see $DIR/apiserver.log"
as_admin=(--kubeconfig="$KUBECONFIG" --authentication-kubeconfig="$KUBECONFIG" --authorization-kubeconfig="$KUBECONFIG"
  --bind-address=127.0.0.1 --leader-elect=false --profiling=false --v=1)
# A dead node is noticed after 16 s instead of 50, so that a scenario about it is short.
part controllers "$KUBE/bin/kube-controller-manager" "${as_admin[@]}" --use-service-account-credentials=true \
  --service-account-private-key-file="$pki/service-accounts.key" --root-ca-file="$pki/ca.crt" \
  --node-monitor-grace-period=16s --node-monitor-period=2s \
  --kube-api-qps=200 --kube-api-burst=300   # as clusters with many objects have it; else these are what a crowd waits for
part scheduler "$KUBE/bin/kube-scheduler" "${as_admin[@]}"
for i in $(seq "$nodes"); do "$LAB/k8s-node.sh" start "$DIR" "$i"; done

# DNS runs beside the control plane, behind the usual service.
corefile 0
part coredns "$KUBE/bin/coredns" -conf "$DIR/Corefile"
kubectl apply -f - >/dev/null <<Y
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $DNS_IP
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$CONTROL_IP], conditions: {ready: true}}]
Y
for i in $(seq "$nodes"); do "$LAB/k8s-node.sh" wait "$DIR" "$i"; done
until_ok 30 kubectl get serviceaccount default || die "the default service account is not there after 30 s; see $DIR/controllers.log"

# A unix socket's path crosses network namespaces: the way in from loopback.
port="$("$LAB/relay.sh" "$DIR" api $CONTROL_IP:6443)"
sed "s#server: .*:6443\"#server: \"https://127.0.0.1:$port\"#" "$KUBECONFIG" >"$DIR/kubeconfig"
up=1
say "$nodes node(s) ready after $SECONDS s: $DIR/kubeconfig"
