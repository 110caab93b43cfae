#!/bin/sh
# prepare.sh CERTIFICATES UPSTREAMS NGINX NAME=ADDRESS[:PORT] ...: run once, before everything else.
# Makes a CA and a certificate for each name, and Nginx' upstream files of the apps.
# OWNER, if set, is whom all of that belongs to.
set -eu
umask 077
certificates=$1 upstreams=$2 nginx=$3
shift 3
mkdir -p "$certificates" "$upstreams" "$nginx"

if [ ! -f "$certificates/ca.pem" ]; then
  cd "$certificates"
  openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/CN=stack" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.pem 2>/dev/null
  openssl rand -hex 32 > gateway.token
  for each in "$@"; do
    name=${each%=*}
    address=${each#*=}
    address=${address%:*}
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$name.key" -out new.csr 2>/dev/null
    printf 'subjectAltName=IP:%s\n' "$address" > new.ext
    openssl x509 -req -in new.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
      -extfile new.ext -out "$name.pem" 2>/dev/null
  done
  rm new.csr new.ext
fi

for each in "$@"; do
  case $each in shop-*)
    file=$upstreams/${each%=*}.conf
    # What the agent has changed since stays as it is.
    [ -f "$file" ] || echo "server ${each#*=} max_fails=0;" > "$file"
  esac
done
[ -z "${OWNER:-}" ] || chown -R "$OWNER" "$certificates" "$upstreams" "$nginx"
