#!/bin/sh
# Run once, as root, before everything else: certificates, and what each host's agent reads.
set -eu
umask 077
owner=10001:10001

# sign NAME SUBJECT-ALTERNATIVE-NAME: a key and a certificate of the stack's own CA.
sign() {
  openssl req -quiet -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null ||
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=%s\n' "$2" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
    -extfile "$1.ext" -out "$1.pem" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

cd /certificates
if [ ! -f ca.pem ]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/CN=stack" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.pem 2>/dev/null
  sign gateway IP:172.28.8.5
  sign prometheus DNS:prometheus
  for n in 1 2 3; do sign "shop-$n" "IP:172.28.8.1$n"; done
  openssl rand -hex 32 > gateway.token
fi

for n in 1 2 3; do
  for kind in toml json; do
    case $kind in toml) from=/stack/agents to=/agents ;; json) from=/stack/consul to=/services ;; esac
    sed -e "s/shop-1/shop-$n/g" -e "s/172\.28\.8\.11/172.28.8.1$n/g" \
      "$from/shop-1.$kind" > "$to/shop-$n.$kind"
    chmod 0644 "$to/shop-$n.$kind"
  done
  # What the agent has changed since stays as it is.
  [ -f "/upstreams/shop-$n.conf" ] ||
    echo "server 172.28.8.1$n:8080 max_fails=0;" > "/upstreams/shop-$n.conf"
done
cp /stack/agents/gateway.toml /agents/

chmod 0755 /agents /services
chown -R "$owner" /certificates /agents /services /upstreams /nginx
