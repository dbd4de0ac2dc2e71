#!/bin/bash
# Install a SuperNode or the SuperLink on a Linux machine; run again, it brings the installed one up to date and keeps
# settings, keys and state. README.md in this folder shows it in use.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PREFIX=/opt/deltamask CONFIG=/etc/deltamask STATE=/var/lib/deltamask UNITS=/etc/systemd/system
ACCOUNT=deltamask

usage() {
  cat <<TEXT
Usage: install.sh supernode [options]    a device with images of its own
       install.sh superlink [options]    the server

Settings are asked for at the first installation only. Later, options that are given replace what is set.

supernode:
  --superlink HOST:PORT   Fleet API of the SuperLink (needed at first)
  --ca FILE               certificate of the CA that signed the SuperLink's (needed at first, unless --insecure)
  --key FILE              the node's private key (OpenSSH, ECDSA); default: one is made here, and never leaves
  --partition-id N        the client id: another one for each SuperNode (needed at first)
  --num-partitions N      how many clients there are (needed at first)
  --facts FILE            what the server has written (deltamask doctor --write-facts), for the doctor here
  --data FOLDER           images, a sub-folder for each class; default: $STATE/images
  --port PORT             of the SuperNode's own interface on 127.0.0.1; default: 9094

superlink:
  --ca FILE               certificate of the CA (needed at first, unless --insecure)
  --certificate FILE      the server's certificate; it must name every address that is used for it, and 127.0.0.1
  --key FILE              its private key
  --fleet HOST:PORT       where SuperNodes connect; default: 0.0.0.0:9092
  --port PORT             where \`flwr\` connects, on 127.0.0.1; default: 8000

both:
  --from SOURCE           what pip installs: a wheel, an sdist, a checkout, or a name; default: this checkout
  --extras NAMES          what runs need beside a folder of images and a backbone of timm, separated by commas: openclip,
                          digits, hub (datasets of the Hugging Face hub by name); default: what was named before
  --constraint FILE       versions, as for pip
  --insecure              no TLS and no node keys: for one machine, or a network of one's own
  --memory-max SIZE       of the service, as in systemd; default: 80%
  --cpu-quota PERCENT     of the service, 100% is one core; default: 90% of each
TEXT
}

die() { echo "install.sh: $*" >&2; exit 2; }

# -- Options -----------------------------------------------------------------------------------------------------------

ROLE=${1:-}
case $ROLE in
  supernode | superlink) shift ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
declare -A GIVEN=()
while [ $# -gt 0 ]; do
  case $ROLE:$1 in
    *:--insecure) GIVEN[insecure]=yes; shift ;;
    *:-h | *:--help) usage; exit ;;
    *:--from | *:--extras | *:--constraint | *:--memory-max | *:--cpu-quota | *:--ca | *:--key | *:--port | \
    supernode:--superlink | supernode:--partition-id | supernode:--num-partitions | supernode:--data | supernode:--facts | \
    superlink:--certificate | superlink:--fleet)
      [ $# -gt 1 ] && [ -n "$2" ] || die "$1 needs a value"
      GIVEN[${1#--}]=$2; shift 2 ;;
    *) die "$ROLE has no option $1; see install.sh --help" ;;
  esac
done
for name in ca key certificate facts constraint; do
  [ -z "${GIVEN[$name]:-}" ] || [ -r "${GIVEN[$name]}" ] || die "--$name ${GIVEN[$name]}: no such file, or it cannot be read"
done
for name in superlink fleet data; do  # they end up in double quotes, in a file that systemd and shells read
  case ${GIVEN[$name]:-} in *[\"\'\$\`\\]*) die "--$name ${GIVEN[$name]}: quotes, \$, \` and \\ are not possible here" ;; esac
done
case ${GIVEN[extras]:-} in *[!a-z,]*) die "--extras ${GIVEN[extras]}: names are needed, separated by commas, for instance openclip,hub" ;; esac
for name in partition-id num-partitions port; do
  case ${GIVEN[$name]:-} in *[!0-9]*) die "--$name ${GIVEN[$name]}: a number is needed" ;; esac
done
SETTINGS=$CONFIG/$ROLE.env KEYS=$CONFIG/$ROLE HOME_FOLDER=$STATE/$ROLE UNIT=deltamask-$ROLE.service
[ -f "$SETTINGS" ] && FIRST=no || FIRST=yes

need() {
  [ $FIRST = no ] || [ -n "${GIVEN[$1]:-}" ] || die "--$1 is needed at the first installation; see install.sh --help"
}
if [ -z "${GIVEN[insecure]:-}" ]; then need ca; fi
if [ $ROLE = supernode ]; then
  need superlink; need partition-id; need num-partitions
  case ${GIVEN[superlink]:-:1} in *:*[0-9]) ;; *) die "--superlink ${GIVEN[superlink]}: HOST:PORT is needed, for instance server.example:9092" ;; esac
  DATA=${GIVEN[data]:-$STATE/images}
  case $DATA in
    /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)
      die "--data $DATA: the service sees no home or temporary folders; put the images elsewhere, for instance below $STATE or /srv" ;;
    /*) ;;
    *) die "--data $DATA: a full path is needed" ;;
  esac
elif [ -z "${GIVEN[insecure]:-}" ]; then
  need certificate; need key
  if [ -n "${GIVEN[ca]:-}" ]; then  # also where it was installed with --insecure before
    [ -n "${GIVEN[certificate]:-}" ] || [ -f "$KEYS/server.pem" ] || die "--certificate is needed with --ca"
    [ -n "${GIVEN[key]:-}" ] || [ -f "$KEYS/server.key" ] || die "--key is needed with --ca"
  fi
fi

# -- The machine -------------------------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || die "this changes $PREFIX, $CONFIG and $UNITS: run it as root"
[ "$(uname -s)" = Linux ] || die "this is for Linux"
case $(uname -m) in
  x86_64 | aarch64) ;;
  *) die "$(uname -m): this is for x86_64 and aarch64, as the libraries are" ;;
esac
PYTHON=""
for name in python3.12 python3.11 python3; do
  if $name -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then PYTHON=$name; break; fi
done
[ -n "$PYTHON" ] || die "Python 3.11 or 3.12 with venv is needed, for instance: apt-get install python3.11 python3.11-venv"
if ! getent passwd $ACCOUNT >/dev/null; then
  useradd --system --user-group --home-dir $STATE --no-create-home --shell /usr/sbin/nologin $ACCOUNT
fi
for group in video render; do  # where the files of GPUs belong to one of them
  if getent group $group >/dev/null; then usermod -aG $group $ACCOUNT; fi
done

# -- The environment ---------------------------------------------------------------------------------------------------

SOURCE=${GIVEN[from]:-}
if [ -z "$SOURCE" ]; then
  SOURCE=$(cd "$HERE/../.." && pwd)
  [ -f "$SOURCE/pyproject.toml" ] || die "--from is needed: there is no checkout around $HERE"
fi
case $SOURCE in
  *.whl | *.tar.gz) [ -f "$SOURCE" ] || die "--from $SOURCE: no such file" ;;
esac
[ -x $PREFIX/venv/bin/python ] || { mkdir -p $PREFIX && $PYTHON -m venv $PREFIX/venv; }
EXTRAS=${GIVEN[extras]:-$(sed -n 's/^DELTAMASK_EXTRAS="\([a-z,]*\)"$/\1/p' "$SETTINGS" 2>/dev/null || true)}
echo "installing $SOURCE${EXTRAS:+ with $EXTRAS} into $PREFIX/venv (the first time minutes, and about 6 GB, for torch) ..."
OPTIONS=(--quiet --disable-pip-version-check)
[ -z "${GIVEN[constraint]:-}" ] || OPTIONS+=(--constraint "${GIVEN[constraint]}")
WHEELS=$(mktemp -d)
trap 'rm -rf "$WHEELS"' EXIT
$PREFIX/venv/bin/python -m pip wheel "${OPTIONS[@]}" --no-deps --wheel-dir "$WHEELS" "$SOURCE"
WHEEL=$(echo "$WHEELS"/*.whl)
$PREFIX/venv/bin/python -m pip install "${OPTIONS[@]}" "$WHEEL${EXTRAS:+[$EXTRAS]}" ||
  die "pip could not install it, see above; on arm64, what to build first stands in README.md"
# Once more without the dependencies: of the same version it is newer all the same.
$PREFIX/venv/bin/python -m pip install "${OPTIONS[@]}" --no-deps --force-reinstall "$WHEEL"
chmod -R go+rX-w $PREFIX
mkdir -p /usr/local/bin
ln -sfn $PREFIX/venv/bin/deltamask /usr/local/bin/deltamask

# -- Folders, keys, settings -------------------------------------------------------------------------------------------

install -d -m 0750 -o root -g $ACCOUNT $CONFIG "$KEYS"
install -d -m 0755 $STATE
install -d -m 0700 -o $ACCOUNT -g $ACCOUNT "$HOME_FOLDER"

put() {  # OPTION NAME MODE: a file that was given, for the service alone
  [ -z "${GIVEN[$1]:-}" ] || install -m "$3" -o $ACCOUNT -g $ACCOUNT "${GIVEN[$1]}" "$KEYS/$2"
}
setting() {  # NAME VALUE OPTION: set it where the option was given, or where nothing is set yet
  local line="$1=\"$2\""
  if ! grep -q "^$1=" "$SETTINGS"; then
    echo "$line" >>"$SETTINGS"
  elif [ -n "${GIVEN[$3]:-}" ]; then
    awk -v name="$1=" -v line="$line" 'index($0, name) == 1 { print line; next } { print }' "$SETTINGS" >"$SETTINGS.new"
    cat "$SETTINGS.new" >"$SETTINGS"
    rm "$SETTINGS.new"
  fi
}
if [ $FIRST = yes ]; then
  install -m 0640 -o root -g $ACCOUNT /dev/null "$SETTINGS"
  echo "# Read by $UNIT and by \`deltamask doctor --config $SETTINGS\`. After a change: systemctl restart $UNIT" >"$SETTINGS"
fi
setting FLWR_HOME "$HOME_FOLDER/flwr" none
setting XDG_CACHE_HOME "$HOME_FOLDER/cache" none
setting XDG_STATE_HOME "$HOME_FOLDER/state" none
# Numba refuses to load where it can neither write beside the code nor into a home.
setting NUMBA_CACHE_DIR "$HOME_FOLDER/cache/numba" none
setting DELTAMASK_EXTRAS "$EXTRAS" extras
put ca ca.crt 0644
if [ $ROLE = supernode ]; then
  put key node.key 0600
  put facts facts.json 0644
  if [ ! -f "$KEYS/node.key" ] && [ -z "${GIVEN[insecure]:-}" ]; then
    # ssh-keygen need not be there; the library is, since Flower signs with it.
    $PREFIX/venv/bin/python - "$KEYS/node.key" "$(uname -n)" <<'CODE'
import os, sys
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP384R1())
with open(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
    file.write(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()))
with open(sys.argv[1].removesuffix(".key") + ".pub", "wb") as file:
    file.write(key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH) + f" {sys.argv[2]}\n".encode())
CODE
    chown $ACCOUNT:$ACCOUNT "$KEYS/node.key"
  fi
  SECURITY="--root-certificates $KEYS/ca.crt --auth-supernode-private-key $KEYS/node.key"
  setting DELTAMASK_SUPERLINK "${GIVEN[superlink]:-}" superlink
  setting DELTAMASK_PARTITION_ID "${GIVEN[partition-id]:-}" partition-id
  setting DELTAMASK_NUM_PARTITIONS "${GIVEN[num-partitions]:-}" num-partitions
  setting DELTAMASK_DATA "folder:$DATA" data
  setting DELTAMASK_FACTS "$KEYS/facts.json" none
  setting DELTAMASK_NODE_OPTIONS "" none
  setting DELTAMASK_PORT "${GIVEN[port]:-9094}" port
  if [ ! -e "$DATA" ] && grep -qF "DELTAMASK_DATA=\"folder:$DATA\"" "$SETTINGS"; then
    install -d -m 0750 -o $ACCOUNT -g $ACCOUNT "$DATA"
  fi
else
  put certificate server.pem 0644
  put key server.key 0600
  SECURITY="--ssl-ca-certfile $KEYS/ca.crt --ssl-certfile $KEYS/server.pem --ssl-keyfile $KEYS/server.key --enable-supernode-auth"
  setting DELTAMASK_FLEET "${GIVEN[fleet]:-0.0.0.0:9092}" fleet
  setting DELTAMASK_PORT "${GIVEN[port]:-8000}" port
fi
# Keys that are given later turn TLS on.
if [ -n "${GIVEN[ca]:-}" ] && [ -z "${GIVEN[insecure]:-}" ]; then setting DELTAMASK_SECURITY "$SECURITY" ca
elif [ -n "${GIVEN[insecure]:-}" ]; then setting DELTAMASK_SECURITY "--insecure" insecure; fi

# -- The service -------------------------------------------------------------------------------------------------------

install -d -m 0755 $UNITS "$UNITS/$UNIT.d"
install -m 0644 "$HERE/$UNIT" "$UNITS/$UNIT"
LIMITS=$UNITS/$UNIT.d/limits.conf
if [ ! -f "$LIMITS" ] || [ -n "${GIVEN[memory-max]:-}${GIVEN[cpu-quota]:-}" ]; then
  kept() { sed -n "s/^$1=//p" "$LIMITS" 2>/dev/null || true; }
  MEMORY=${GIVEN[memory-max]:-$(kept MemoryMax)} CPU=${GIVEN[cpu-quota]:-$(kept CPUQuota)}
  printf '[Service]\nMemoryMax=%s\nCPUQuota=%s\n' "${MEMORY:-80%}" "${CPU:-$(($(nproc) * 90))%}" >"$LIMITS"
fi
STARTED="start it with: systemctl enable --now $UNIT"
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  if systemctl --quiet is-active $UNIT; then systemctl restart $UNIT && STARTED="restarted"; fi
else
  STARTED="systemd does not run here. Where it does: systemctl enable --now $UNIT"
fi
echo "$ROLE: $($PREFIX/venv/bin/python -c 'from importlib.metadata import version; print("deltamask", version("deltamask"), "with Flower", version("flwr"))')"
echo "settings: $SETTINGS; keys: $KEYS; state: $HOME_FOLDER; limits: $LIMITS"
if [ $ROLE = supernode ] && [ -f "$KEYS/node.pub" ]; then
  echo "public key, to be registered on the server (deploy/tls/keys.sh register): $KEYS/node.pub"
fi
echo "check it with: deltamask doctor --config $SETTINGS"
echo "$STARTED"
