#!/usr/bin/env bash
# relay.sh DIR NAME ADDRESS:PORT: a way from loopback to an address inside the cluster in DIR.
#
# Prints the port on 127.0.0.1. It goes with the cluster.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
socket="$DIR/$2.sock"
part "$2-relay" "$(command -v socat)" "UNIX-LISTEN:$socket,fork,unlink-early" "TCP:$3"
until_ok 10 test -S "$socket" || die "socat did not start; see $DIR/$2-relay.log"
for port in $(shuf -i 20000-29999 -n 20); do
  alone "$DIR/$2-port.log" socat "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr,fork" "UNIX-CONNECT:$socket"
  pid=$!
  until_ok 2 sh -c "! kill -0 $pid || ss -Hltn 'src 127.0.0.1:$port' | grep -q ." || true
  kill -0 $pid 2>/dev/null || continue   # the port is taken
  echo "$port"
  exit
done
die "no free port on loopback after 20 tries; see $DIR/$2-port.log"
