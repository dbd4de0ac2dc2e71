#!/bin/bash
# The part of verify.sh that runs in the fresh Debian, as root: the checkout is at /src, CA and server certificate are in
# /keys. systemd does not run here: services are started by what their units say.
set -euo pipefail

EDGE=/src/deploy/edge BIN=/opt/deltamask/venv/bin
FLEET=29092 CONTROL=28000 RUNTIME=29094

say() { printf '== %s\n' "$*"; }
die() { echo "verify: $*" >&2; exit 1; }
trap 'status=$?; [ $status = 0 ] || tail -n 20 /root/superlink.log /root/supernode.log 2>/dev/null' EXIT

# What systemd makes of a unit, as far as it goes without it: account, no privileges, environment, and a file system that
# is read-only but for the service's own folder, with its own /tmp.
service() {
  local role=$1 unit=/etc/systemd/system/deltamask-$1.service
  unshare --mount bash -euc '
    role=$1 unit=$2
    mount --bind /var/lib/deltamask/$role /var/lib/deltamask/$role
    mount -o remount,bind,ro /
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    mapfile -t environment < <(sed -n "s/^Environment=//p" "$unit")
    set -a; . /etc/deltamask/$role.env; set +a
    cd /var/lib/deltamask/$role
    umask 0077
    eval "set -- $(sed -n "s/^ExecStart=//p" "$unit")"
    mapfile -t settings < <(env | grep -E "^(DELTAMASK_|FLWR_HOME=|XDG_CACHE_HOME=|NUMBA_CACHE_DIR=)")
    exec setpriv --reuid deltamask --regid deltamask --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
      env -i "${environment[@]}" "${settings[@]}" "$@"
  ' _ "$role" "$unit" >"/root/$role.log" 2>&1 &
  PIDS[$role]=$!
}
declare -A PIDS=()
stop() {
  kill "${PIDS[$1]}"
  wait "${PIDS[$1]}" && echo "$1 ended with status 0" || echo "$1 ended with status $?"
}
listens() {  # PORT SECONDS
  for _ in $(seq "$2"); do (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 1; done
  die "nothing listens on port $1"
}
as_service() { setpriv --reuid deltamask --regid deltamask --init-groups env HOME=/nonexistent "$@"; }
both() { service superlink; listens $FLEET 120; listens $CONTROL 60; service supernode; }
kept() { find /etc/deltamask /etc/systemd/system/deltamask-*.d -type f -exec sha256sum {} + | sort -k 2; }

say "installing the SuperLink"
$EDGE/install.sh superlink --ca /keys/ca.crt --certificate /keys/server.pem --key /keys/server.key \
  --fleet 127.0.0.1:$FLEET --port $CONTROL
say "installing the SuperNode"
$EDGE/install.sh supernode --superlink localhost:$FLEET --ca /keys/ca.crt --partition-id 0 --num-partitions 1 --port $RUNTIME \
  --extras digits  # for the images below
[ "$(stat -c '%a %U' /etc/deltamask/supernode/node.key)" = "600 deltamask" ] || die "the node's key is not private"
[ "$(stat -c '%a %U' /etc/deltamask/superlink/server.key)" = "600 deltamask" ] || die "the server's key is not private"
ls -lR /etc/deltamask

say "images: handwritten digits as files, a folder for each digit"
mkdir -p /srv/test-images
$BIN/python - /var/lib/deltamask/images /srv/test-images <<'CODE'
import sys
from pathlib import Path
from PIL import Image
from sklearn.datasets import load_digits
images, labels = load_digits(return_X_y=True)
for i in [*range(300), *range(-100, 0)]:  # the last ones come from other writers
    folder = Path(sys.argv[1 if i >= 0 else 2], str(labels[i]))
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((images[i].reshape(8, 8) * 15).astype("uint8")).save(folder / f"{i}.png")
CODE
chown -R deltamask: /var/lib/deltamask/images

say "doctor before anything runs: it must fail, and say that nothing listens"
as_service deltamask doctor --config /etc/deltamask/supernode.env >/root/doctor.txt && die "doctor found nothing"
cat /root/doctor.txt
grep -q "nothing listens there" /root/doctor.txt

say "both start as their units say"
both
mkdir -p /root/.flwr
printf '[superlink.edge]\naddress = "127.0.0.1:%s"\nroot-certificates = "/keys/ca.crt"\n' $CONTROL >/root/.flwr/config.toml
export PATH=$BIN:$PATH FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
say "doctor while the node is not registered: it must say so"
as_service deltamask doctor --config /etc/deltamask/supernode.env >/root/doctor.txt && die "doctor found nothing"
grep -A 3 sign-in /root/doctor.txt
cp /etc/deltamask/supernode/node.pub /keys/device.pub
/src/deploy/tls/keys.sh register /keys device edge
# The SuperNode has given up meanwhile: under systemd it is started again.
wait "${PIDS[supernode]}" || echo "unregistered, the SuperNode ended with status $?"
service supernode
listens $RUNTIME 60

say "doctor on both sides"
as_service deltamask doctor --config /etc/deltamask/superlink.env
deltamask doctor --config /etc/deltamask/superlink.env --write-facts /keys/facts.json
install -m 0644 /keys/facts.json /etc/deltamask/supernode/facts.json  # as install.sh --facts does
as_service deltamask doctor --config /etc/deltamask/supernode.env

say "a run"
flwr run /src edge --stream -c "num-server-rounds=2 min-clients=1 local-epochs=1 head-epochs=30 backbone='letters-vit' dataset='folder:/srv/test-images'"
RESULTS=/var/lib/deltamask/superlink/runs/latest/results.json
grep -q '"status": "completed"' $RESULTS || die "the run did not complete"
du -sh /var/lib/deltamask/*

say "upgrade: settings, keys and state stay"
kept >/root/before
stop supernode; stop superlink
$EDGE/install.sh superlink
$EDGE/install.sh supernode --cpu-quota 150%
kept >/root/after
diff /root/before /root/after && die "--cpu-quota changed nothing"
[ "$(diff /root/before /root/after | grep -c '^>')" = 1 ] || die "more than --cpu-quota has changed"
grep -q CPUQuota=150% /etc/systemd/system/deltamask-supernode.service.d/limits.conf || die "--cpu-quota did nothing"
[ -f $RESULTS ] || die "the results are lost"
both
listens $RUNTIME 60
say "the SuperLink still knows the node"
as_service deltamask doctor --config /etc/deltamask/supernode.env
flwr ls edge
stop supernode; stop superlink

say "removal"
$EDGE/uninstall.sh supernode
[ -x $BIN/flower-superlink ] || die "the SuperLink lost its environment"
$EDGE/uninstall.sh superlink
for path in /opt/deltamask /usr/local/bin/deltamask /etc/systemd/system/deltamask-superlink.service; do
  [ ! -e $path ] || die "$path is still there"
done
[ -f /etc/deltamask/supernode/node.key ] && [ -f $RESULTS ] || die "keys or state are lost"
$EDGE/uninstall.sh supernode --purge
$EDGE/uninstall.sh superlink --purge
[ ! -e /etc/deltamask ] && [ "$(ls /var/lib/deltamask)" = images ] || die "something was left, or the images are lost"
rm -r /var/lib/deltamask
say "all of it works"
