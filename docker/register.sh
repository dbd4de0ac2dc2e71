#!/usr/bin/env bash
# The compose demo's one-shot service `register`: waits for the SuperLink, and lets these SuperNodes in.
#   register.sh CONNECTION NODE...
# A node that the SuperLink knows is left as it is: one that was revoked stays out.
set -euo pipefail
connection=$1
shift
keys=/app/deploy/tls/keys.sh
install -D -m 600 /app/docker/connections.toml "$FLWR_HOME/config.toml"

for attempt in $(seq 60); do
    if known=$(flwr supernode list "$connection" --verbose --format json) && [[ $known == *'"success": true'* ]]; then
        break
    fi
    [ "$attempt" -lt 60 ] || { echo "register.sh: the SuperLink does not answer: $known" >&2; exit 1; }
    sleep 2
done

for node in "$@"; do
    number=$(cat "/keys/$node.$connection.id" 2>/dev/null || true)
    if [ -n "$number" ] && [[ $known == *"\"$number\""* ]]; then
        echo "register.sh: the SuperLink knows $node (SuperNode $number)"
    else # never registered, or the SuperLink has forgotten: without a database it does so when it restarts
        $keys register /keys "$node" "$connection"
    fi
done
