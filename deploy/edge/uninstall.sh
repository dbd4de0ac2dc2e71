#!/bin/bash
# Remove what install.sh has installed. Settings, keys and state stay, unless --purge is given; images always stay.
set -euo pipefail

PREFIX=/opt/deltamask CONFIG=/etc/deltamask STATE=/var/lib/deltamask UNITS=/etc/systemd/system
ACCOUNT=deltamask

ROLE=${1:-} PURGE=${2:-}
case $ROLE:$PURGE in
  supernode: | superlink: | supernode:--purge | superlink:--purge) ;;
  *) echo "Usage: uninstall.sh supernode|superlink [--purge]    (--purge removes settings, keys and state too)" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "uninstall.sh: run it as root" >&2; exit 2; }

UNIT=deltamask-$ROLE.service
if [ -d /run/systemd/system ] && [ -f "$UNITS/$UNIT" ]; then systemctl disable --now "$UNIT"; fi
rm -f "$UNITS/$UNIT"
if [ -n "$PURGE" ]; then
  rm -rf "$UNITS/$UNIT.d" "$CONFIG/$ROLE" "$CONFIG/$ROLE.env" "${STATE:?}/$ROLE"
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

if ! ls $UNITS/deltamask-*.service >/dev/null 2>&1; then  # the other role needs them as well
  rm -rf $PREFIX
  rm -f /usr/local/bin/deltamask
fi
if [ -n "$PURGE" ] && ! ls $CONFIG/*.env >/dev/null 2>&1; then
  rmdir --ignore-fail-on-non-empty $CONFIG $STATE 2>/dev/null || true
  if [ ! -d $STATE ] && getent passwd $ACCOUNT >/dev/null; then userdel $ACCOUNT; fi
fi

LEFT=()
for path in $CONFIG $STATE; do if [ -e "$path" ]; then LEFT+=("$path"); fi; done
if [ ${#LEFT[@]} -gt 0 ]; then echo "$ROLE removed; still there: ${LEFT[*]}"; else echo "$ROLE removed"; fi
