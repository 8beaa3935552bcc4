#!/usr/bin/env bash
# pki.sh DIR NODES: keys, certificates and kubeconfigs of the cluster in DIR.
#
# One administrator for everything of the control plane; kubelets are themselves,
# so that the node authoriser is at work.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
mkdir -p "$DIR/pki"
cd "$DIR/pki"
export OPENSSL_CONF=/dev/null
request=$'[req]\ndistinguished_name=dn\n[dn]\n'

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key" 2>/dev/null; }

# cert NAME SUBJECT [ALTERNATIVE NAMES]
cert() {
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" -config <(echo "$request") |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" 2>/dev/null \
      -extfile <(printf 'keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n%s' "${3:+subjectAltName=$3}")
}

# kubeconfig CERT FILE
kubeconfig() {
  cat >"$2" <<Y
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://$CONTROL_IP:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: lab, context: {cluster: lab, user: $1}}]
current-context: lab
Y
}

key ca
openssl req -x509 -new -key ca.key -subj /CN=millrace-lab -days 365 -out ca.crt -config <(echo "$request") \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature
cert apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:${SERVICES%.*}.1,IP:$CONTROL_IP"
cert admin /O=system:masters/CN=lab-admin
kubeconfig admin "$DIR/inside.kubeconfig"
for i in $(seq "$2"); do
  cert "n$i" "/O=system:nodes/CN=system:node:n$i" "DNS:n$i,IP:$(node_ip "$i")"
  kubeconfig "n$i" "$DIR/n$i.kubeconfig"
done
openssl genrsa -out service-accounts.key 2048 2>/dev/null
openssl rsa -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
