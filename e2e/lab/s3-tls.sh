#!/usr/bin/env bash
# s3-tls.sh DIR: the object store of the cluster in DIR by HTTPS too, as `s3-tls` of any namespace.
#
# The same objects behind another port, with a certificate of the lab's own authority; prints
# the address for pods and the file with the authority. It goes with the cluster.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
[ -x "$DIR/parts/s3" ] || die "no object store in $DIR"
pki="$DIR/pki"
if [ ! -x "$DIR/parts/s3-tls" ]; then
  export OPENSSL_CONF=/dev/null
  openssl ecparam -name prime256v1 -genkey -noout -out "$pki/s3.key" 2>/dev/null
  openssl req -new -key "$pki/s3.key" -subj /CN=s3-tls -config <(printf '[req]\ndistinguished_name=dn\n[dn]\n') |
    openssl x509 -req -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 -out "$pki/s3.crt" 2>/dev/null \
      -extfile <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:s3-tls')
  server="${MILLRACE_S3_SERVER:-$("$LAB/../../worker/s3/lab/server.sh" versitygw)}"
  part s3-tls "$server" --access testtest --secret testtest123 --port $CONTROL_IP:9443 \
    --cert "$pki/s3.crt" --key "$pki/s3.key" posix "$DIR/s3/data"
fi
until_ok 60 in_control curl --silent --max-time 5 --output /dev/null --cacert "$pki/ca.crt" \
  --resolve "s3-tls:9443:$CONTROL_IP" https://s3-tls:9443/ ||
  die "the S3 server does not answer by HTTPS after 60 s; see $DIR/s3-tls.log"
echo "$CONTROL_IP:9443 $pki/ca.crt"
