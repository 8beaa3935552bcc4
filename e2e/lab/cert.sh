#!/usr/bin/env bash
# cert.sh DIR NAME: a certificate of the lab's own authority for NAME, of either side of TLS.
#
# Prints the folder with its tls.crt, tls.key and ca.crt, as a Secret of cert-manager has them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use "$1"
name="$2" pki="$DIR/pki" to="$DIR/pki/$2"
if [ ! -s "$to/ca.crt" ]; then
  mkdir -p "$to"
  export OPENSSL_CONF=/dev/null
  openssl ecparam -name prime256v1 -genkey -noout 2>/dev/null | openssl pkcs8 -topk8 -nocrypt -out "$to/tls.key"
  # A name may be longer than a subject's common name may be.
  openssl req -new -key "$to/tls.key" -subj "/CN=${name:0:63}" -config <(printf '[req]\ndistinguished_name=dn\n[dn]\n') |
    openssl x509 -req -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 -out "$to/tls.crt" 2>/dev/null \
      -extfile <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:%s' "$name")
  cp "$pki/ca.crt" "$to/ca.crt"
fi
echo "$to"
