#!/bin/sh
# prepare.sh CERTIFICATES UPSTREAMS NGINX NAME=ADDRESS ... FILE=ADDRESS:PORT ...: run once, before
# everything else. Makes a CA and a certificate for each name, and Nginx' upstream files.
# OWNER, if set, is whom all of that belongs to.
set -eu
umask 077
certificates=$1 upstreams=$2 nginx=$3
shift 3
mkdir -p "$certificates" "$upstreams" "$nginx"
cd "$certificates"
ec="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"

if [ ! -f ca.pem ]; then
  # shellcheck disable=SC2086
  openssl req -x509 $ec -days 365 -subj "/CN=stack" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.pem 2>/dev/null
  openssl rand -hex 32 > gateway.token
fi

for each in "$@"; do
  name=${each%=*} value=${each#*=}
  case $value in
  *:*)  # What the agent has changed since stays as it is.
    [ -f "$upstreams/$name" ] || echo "server $value max_fails=0;" > "$upstreams/$name"
    ;;
  *)
    [ ! -f "$name.pem" ] || continue
    # shellcheck disable=SC2086
    openssl req $ec -subj "/CN=$name" -keyout "$name.key" -out new.csr 2>/dev/null
    printf 'subjectAltName=IP:%s\n' "$value" > new.ext
    openssl x509 -req -in new.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
      -extfile new.ext -out "$name.pem" 2>/dev/null
    rm new.csr new.ext
  esac
done
[ -z "${OWNER:-}" ] || chown -R "$OWNER" "$certificates" "$upstreams" "$nginx"
