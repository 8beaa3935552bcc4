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
  cert="$("$LAB/cert.sh" "$DIR" s3-tls)"
  server="${MILLRACE_S3_SERVER:-$("$LAB/../../worker/s3/lab/server.sh" versitygw)}"
  part s3-tls "$server" --access testtest --secret testtest123 --port $CONTROL_IP:9443 \
    --cert "$cert/tls.crt" --key "$cert/tls.key" posix "$DIR/s3/data"
fi
until_ok 60 in_control curl --silent --max-time 5 --output /dev/null --cacert "$pki/ca.crt" \
  --resolve "s3-tls:9443:$CONTROL_IP" https://s3-tls:9443/ ||
  die "the S3 server does not answer by HTTPS after 60 s; see $DIR/s3-tls.log"
echo "$CONTROL_IP:9443 $pki/ca.crt"
