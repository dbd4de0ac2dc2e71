#!/usr/bin/env bash
# The compose demo's one-shot service `keys`: makes what is missing, once, and gives each service a volume with nothing
# but its own keys.
#   /keyring/authority    the key of the certificate authority; no other service mounts this
#   /keyring/superlink    the server's key and certificate
#   /keyring/superexec    the secret that SuperLink and SuperExec share under state.yml
#   /keyring/operator     public keys of the nodes, to register
#   /keyring/NODE         the private key of one SuperNode
set -euo pipefail
umask 077
make=/app/deploy/tls/keys.sh
ring=/keyring

[ -f $ring/authority/ca.key ] || $make ca $ring/authority
for folder in $ring/*/; do
    [ "$folder" = $ring/authority/ ] || install -m 644 $ring/authority/ca.crt "$folder"
done

# Renewed a month before its end: restart the SuperLink afterwards.
if ! openssl x509 -in $ring/superlink/server.pem -noout -checkend 2592000 >/dev/null 2>&1; then
    $make server $ring/authority superlink
    mv $ring/authority/server.key $ring/authority/server.pem $ring/superlink/
fi

[ -f $ring/superexec/secret ] || head -c 32 /dev/urandom >$ring/superexec/secret

for node in "$@"; do
    [ -f "$ring/$node/$node" ] || $make node "$ring/$node" "$node"
    install -m 644 "$ring/$node/$node.pub" $ring/operator/
done
echo "keys.sh: all keys are there"
sleep 2 # podman starts it again for whatever depends on it, and wants to find it running for a moment
