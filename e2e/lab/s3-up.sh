#!/usr/bin/env bash
# s3-up.sh DIR: an S3 server (versitygw) in the network of the cluster in DIR.
#
# Pods reach it, and so does this machine through a port on loopback; prints both
# URLs. Access key testtest, secret testtest123. Objects are files in DIR/s3/data,
# and `k8s-part.sh kill|start DIR s3` takes it away and brings it back. It goes
# with the cluster.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
[ -d "$DIR/parts" ] || die "no cluster in $DIR"
server="${MILLRACE_S3_SERVER:-$("$LAB/../../worker/s3/lab/server.sh" versitygw)}"
mkdir -p "$DIR/s3/data"
part s3 "$server" --access testtest --secret testtest123 --port $CONTROL_IP:9000 posix "$DIR/s3/data"
port="$("$LAB/relay.sh" "$DIR" s3 $CONTROL_IP:9000)"
until_ok 60 curl --silent --max-time 5 --output /dev/null "http://127.0.0.1:$port/" ||
  die "the S3 server does not answer after 60 s; see $DIR/s3.log"
echo "http://$CONTROL_IP:9000 http://127.0.0.1:$port"
