#!/usr/bin/env bash
# s3-share.sh FROM TO: the object store of the cluster in FROM, under the same address in that in TO.
#
# A unix socket's path crosses network namespaces. It goes with the cluster in TO.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
from="$(realpath -m "$1")"
[ -S "$from/s3.sock" ] || die "no object store in $from"
use "$2"
part s3 "$(command -v socat)" "TCP-LISTEN:9000,bind=$CONTROL_IP,reuseaddr,fork" "UNIX-CONNECT:$from/s3.sock"
until_ok 10 in_control curl --silent --max-time 5 --output /dev/null "http://$CONTROL_IP:9000/" ||
  die "the object store does not answer in $DIR after 10 s; see $DIR/s3.log"
