#!/usr/bin/env bash
# Keys of a deployment: a certificate authority, the SuperLink's certificate, and a key for each SuperNode.
# It needs openssl and ssh-keygen, and flwr for register, revoke and list. README.md beside it says what goes where.
set -euo pipefail
umask 077

CA_DAYS=3650
SERVER_DAYS=825
CURVE=P-384

usage() {
    cat <<'END'
Usage:
  keys.sh ca DIR                            make the certificate authority: ca.key, ca.crt
  keys.sh server DIR NAME_OR_ADDRESS...     make or renew the SuperLink's server.key and server.pem, valid for these
                                            names and addresses, and for localhost and 127.0.0.1
  keys.sh node DIR NAME                     make a SuperNode's key: NAME (secret) and NAME.pub
  keys.sh register DIR NAME CONNECTION      let the SuperNode with NAME.pub in, at the SuperLink of this connection
  keys.sh revoke DIR NAME CONNECTION        shut it out again
  keys.sh list CONNECTION                   the SuperNodes that the SuperLink knows, and their status

DIR is a folder of yours, of which nothing is ever committed. CONNECTION is the name of a [superlink.NAME] section in
$FLWR_HOME/config.toml (or ~/.flwr/config.toml).
END
}

fail() {
    printf 'keys.sh: %s\n' "$*" >&2
    exit 1
}

arguments() { # arguments WANTED GOT COMMAND
    [ "$2" -eq "$1" ] || fail "'$3' takes $1 argument(s), not $2. Call keys.sh alone for help."
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "there is no '$tool' on the PATH: install it (flwr: pip install 'flwr~=1.39.0')"
    done
}

absent() {
    local file
    for file in "$@"; do
        [ ! -e "$file" ] || fail "$file exists, and is not overwritten. If it is really to go, move it away first."
    done
}

present() { # present FILE WHAT_TO_DO
    [ -f "$1" ] || fail "there is no $1: $2"
}

check_name() { # A dot would allow ca.key or server.pem; a slash, another folder.
    [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$ ]] ||
        fail "'$1' is no name for a node: letters, digits, - and _ only, at most 63, a letter or digit first"
}

check_connection() {
    [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
        fail "'$1' is no name of a connection: it is NAME in [superlink.NAME] of Flower's config.toml"
}

make_folder() {
    mkdir -p -- "$1"
    [ -e "$1/.gitignore" ] || printf '# Keys: nothing here is ever committed.\n*\n' >"$1/.gitignore"
}

# -- The certificate authority and the server -------------------------------------------------------------------------

certificate_authority() {
    local dir=$1
    need openssl
    absent "$dir/ca.key" "$dir/ca.crt"
    make_folder "$dir"
    scratch=$(mktemp -d "$dir/.new-XXXXXX")
    cat >"$scratch/config" <<'END'
[req]
distinguished_name = subject
x509_extensions = authority
prompt = no
[subject]
CN = DeltaMask CA
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
END
    new_key "$scratch/ca.key"
    openssl req -x509 -new -sha384 -key "$scratch/ca.key" -config "$scratch/config" -days "$CA_DAYS" -out "$scratch/ca.crt"
    chmod 644 "$scratch/ca.crt"
    mv -- "$scratch/ca.key" "$scratch/ca.crt" "$dir/"
    echo "Made $dir/ca.key (secret: it stays on this machine) and $dir/ca.crt (for everyone), $(end_of "$dir/ca.crt")."
}

server() {
    local dir=$1 names san verb=Made
    shift
    need openssl
    present "$dir/ca.key" "call 'keys.sh ca $dir' first"
    present "$dir/ca.crt" "ca.key without it is of no use; it belongs in the same folder"
    openssl x509 -in "$dir/ca.crt" -noout -checkend 0 >/dev/null ||
        fail "$dir/ca.crt has expired ($(end_of "$dir/ca.crt")): make a new one in another folder, with 'keys.sh ca'"
    names=$(alternative_names "$@")
    san=$(paste -sd, - <<<"$names")
    [ ! -e "$dir/server.pem" ] || verb=Renewed
    scratch=$(mktemp -d "$dir/.new-XXXXXX")
    cat >"$scratch/config" <<END
[req]
distinguished_name = subject
prompt = no
[subject]
CN = DeltaMask SuperLink
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $san
END
    new_key "$scratch/server.key"
    openssl req -new -sha384 -key "$scratch/server.key" -config "$scratch/config" -out "$scratch/request"
    openssl x509 -req -sha384 -in "$scratch/request" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -days "$SERVER_DAYS" \
        -set_serial "0x$(openssl rand -hex 16)" -extfile "$scratch/config" -extensions server -out "$scratch/server.pem" \
        2>"$scratch/log" || fail "openssl signed nothing for '$*': $(cat "$scratch/log")"
    openssl verify -CAfile "$dir/ca.crt" "$scratch/server.pem" >/dev/null || fail "$dir/ca.key and ca.crt are no pair"
    chmod 644 "$scratch/server.pem"
    mv -f -- "$scratch/server.key" "$scratch/server.pem" "$dir/"
    echo "$verb $dir/server.key (secret: for the SuperLink only) and $dir/server.pem for ${san//,/, }, $(end_of "$dir/server.pem")."
    [ "$verb" = Made ] || echo "The SuperLink reads both when it starts: copy both there, and restart it. Nodes keep their ca.crt."
}

new_key() {
    openssl genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:$CURVE" -out "$1" 2>/dev/null
    chmod 600 "$1"
}

end_of() {
    openssl x509 -in "$1" -noout -enddate | sed 's/notAfter=/valid until /'
}

alternative_names() { # One SAN a line, each once
    local name
    for name in "$@" localhost 127.0.0.1; do
        if [[ $name =~ ^[0-9.]+$ ]]; then
            is_ipv4 "$name" || fail "'$name' is no address: four numbers up to 255, with dots between"
            echo "IP:$name"
        elif [[ $name == *:*:* && $name =~ ^[0-9A-Fa-f:.]+$ ]]; then
            echo "IP:$name"
        elif [[ ${#name} -le 253 && $name =~ ^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$ ]]; then
            echo "DNS:$name"
        else
            fail "'$name' is neither a host name nor an address: write it without scheme, port or path"
        fi
    done | awk '!seen[$0]++'
}

is_ipv4() {
    local part parts
    [[ $1 =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]] || return 1
    IFS=. read -ra parts <<<"$1"
    for part in "${parts[@]}"; do
        [ "$part" -le 255 ] || return 1
    done
}

# -- Nodes ------------------------------------------------------------------------------------------------------------

node() {
    local dir=$1 name=$2
    need ssh-keygen
    check_name "$name"
    absent "$dir/$name" "$dir/$name.pub"
    make_folder "$dir"
    ssh-keygen -q -t ecdsa -b 384 -N '' -C "$name" -f "$dir/$name"
    chmod 644 "$dir/$name.pub"
    echo "Made $dir/$name (secret: for this SuperNode only) and $dir/$name.pub (for 'keys.sh register')."
}

# Flower lists nodes by number, and shows no keys: the number that it gave the key is kept beside the key.
number_file() {
    echo "$1/$2.$3.id"
}

ask_flower() { # Flower's answer as one line of JSON, or its error and status 1: Flower itself exits 0 on both.
    local answer
    answer=$(env -u FORCE_COLOR FLWR_DISABLE_UPDATE_CHECK=1 flwr supernode "$@" --format json 2>&1 </dev/null | tr '\n' ' ')
    if [[ $answer =~ \"success\":\ *true ]]; then
        printf '%s' "$answer"
        return
    fi
    sed 's/.*"error-message": *"//; s/" *} *$//; s/\\n/ /g' <<<"$answer"
    return 1
}

status_of() { # status_of NUMBER CONNECTION: online, offline, registered, unregistered; nothing for an unknown one
    local nodes
    nodes=$(ask_flower list "$2" --verbose) || fail "the SuperLink of '$2' gives no list of its nodes: $nodes"
    tr '{' '\n' <<<"$nodes" | sed -n "s/.*\"node-id\": *\"$1\".*\"status\": *\"\([a-z]*\)\".*/\1/p"
}

register() {
    local dir=$1 name=$2 connection=$3 answer number
    need flwr
    check_name "$name"
    check_connection "$connection"
    present "$dir/$name.pub" "call 'keys.sh node $dir $name' first, or copy the public key here"
    answer=$(ask_flower register "$dir/$name.pub" "$connection" --name "$name") ||
        fail "'$name' is not registered at '$connection': $answer
  (A SuperLink takes a key once. Where 'already in use' stands above, it is registered, or it was revoked.)"
    number=$(sed -n 's/.*"node-id": *"\{0,1\}\([0-9]*\).*/\1/p' <<<"$answer")
    [ -n "$number" ] || fail "Flower named no number for '$name': $answer"
    echo "$number" >"$(number_file "$dir" "$name" "$connection")"
    echo "Registered $name at '$connection' as SuperNode $number."
}

revoke() {
    local dir=$1 name=$2 connection=$3 file number status answer
    need flwr
    check_name "$name"
    check_connection "$connection"
    file=$(number_file "$dir" "$name" "$connection")
    present "$file" "'$name' was not registered at '$connection' from this folder. Find its number with
  'keys.sh list $connection', and call 'flwr supernode unregister NUMBER $connection'"
    number=$(<"$file")
    status=$(status_of "$number" "$connection")
    case $status in
        "") fail "the SuperLink of '$connection' does not know SuperNode $number ($name): without --database it forgets
  its nodes when it restarts, and lets none in that is not registered anew" ;;
        unregistered)
            echo "$name (SuperNode $number) was revoked at '$connection' before; nothing to do."
            return
            ;;
    esac
    answer=$(ask_flower unregister "$number" "$connection") || fail "$name (SuperNode $number) is NOT revoked: $answer"
    echo "Revoked $name (SuperNode $number, it was $status) at '$connection': the SuperLink refuses its key from now on."
    echo "A SuperNode that is running stops at its next request, within seconds. Delete $dir/$name and $dir/$name.pub, so"
    echo "that nobody registers them again: the node needs a new key to come back."
}

list() {
    need flwr
    check_connection "$1"
    FLWR_DISABLE_UPDATE_CHECK=1 flwr supernode list "$1" --verbose
}

# ---------------------------------------------------------------------------------------------------------------------

scratch=
trap '[ -z "$scratch" ] || rm -rf -- "$scratch"' EXIT

command=${1:-}
[ $# -eq 0 ] || shift
for argument in "$@"; do
    [ -n "$argument" ] || fail "an argument of '$command' is empty"
done
case $command in
    "" | -h | --help | help) usage ;;
    ca) arguments 1 $# ca; certificate_authority "$@" ;;
    server)
        [ $# -ge 2 ] || fail "'server' takes a folder, and the names and addresses under which nodes reach the SuperLink"
        server "$@"
        ;;
    node) arguments 2 $# node; node "$@" ;;
    register) arguments 3 $# register; register "$@" ;;
    revoke) arguments 3 $# revoke; revoke "$@" ;;
    list) arguments 1 $# list; list "$@" ;;
    *) fail "'$command' is no command. Call keys.sh alone for help." ;;
esac
