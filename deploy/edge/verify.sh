#!/bin/bash
# Try install.sh, doctor and uninstall.sh in a fresh Debian, where nothing of this machine is: a root of its own, both
# services started as their units say, a run over TLS with node authentication on loopback, an upgrade, the removal.
# It takes root, debootstrap, openssl, 8 GB of disk, and ten minutes or more, most of which torch takes.
#
#   verify.sh ROOT      ROOT is made if it is not there, and kept. Remove it yourself.
#
# Environment: BIND    folders of this machine that pip needs in there, separated by colons; PIP_* is handed on.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(cd "$HERE/../.." && pwd)
[ $# = 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
ROOT=$1
[ "$(id -u)" = 0 ] || { echo "verify.sh: run it as root" >&2; exit 2; }

if [ ! -e "$ROOT/etc/debian_version" ]; then
  mkdir -p "$ROOT"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$ROOT" >"$ROOT.log" ||
    { tail -5 "$ROOT.log" >&2; exit 1; }
fi
# The way to the package index is this machine's own.
for file in /etc/resolv.conf /etc/pip.conf "$HOME/.config/pip/pip.conf" /etc/ssl/certs/ca-certificates.crt; do
  if [ -f "$file" ]; then mkdir -p "$ROOT$(dirname "$file")" && cp -L "$file" "$ROOT$file"; fi
done
rm -rf "$ROOT/src" "$ROOT/keys"
mkdir -p "$ROOT/src"
git -C "$REPOSITORY" ls-files -z --cached --others --exclude-standard | tar -C "$REPOSITORY" --null -T - -c --ignore-failed-read |
  tar -C "$ROOT/src" -x
"$REPOSITORY/deploy/tls/keys.sh" ca "$ROOT/keys"
"$REPOSITORY/deploy/tls/keys.sh" server "$ROOT/keys" localhost

PIP=()
while IFS= read -r name; do PIP+=("$name=${!name}"); done < <(compgen -e | grep '^PIP_' || true)
# Mounts and processes of its own: both end with it.
exec unshare --mount --pid --fork --kill-child bash -euc '
  root=$1; shift
  mount --make-rprivate /
  mount --bind "$root" "$root"  # a mount of its own, so that a service can see it read-only
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp"
  IFS=: read -ra folders <<<"${BIND:-}"
  for folder in "${folders[@]}"; do mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"; done
  exec chroot "$root" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
' _ "$ROOT" "${PIP[@]}" bash /src/deploy/edge/verify_inside.sh
