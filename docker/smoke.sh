#!/usr/bin/env bash
# Build both images, run the compose demo (three SuperNodes, three rounds, TLS and node keys on gRPC), and check that
# every round has the theta that the simulation in the same image computes. Ends what it started, and removes its
# containers, networks, volumes and results; the images stay.
#
#   docker/smoke.sh [--json FILE] [--no-build]
#
#   --json FILE   write the figures there
#   --no-build    take the images as they are
#
# From the environment: ENGINE (docker or podman; default: the first that works), COMPOSE (default: `docker compose` or
# `podman-compose`), BASE, TORCH_INDEX and BUILD_ARGS (more arguments of `build`, split at spaces), OVERLAYS (files
# beside compose.yml, for instance "state.yml").
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
project=deltamask-smoke-$$
rounds=3
config="num-server-rounds=$rounds min-clients=3 seed=7 head='ridge'"

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'smoke.sh: %s\n' "$*" >&2; exit 1; }

json= build=yes
while [ $# -gt 0 ]; do
    case $1 in
        --json) [ $# -ge 2 ] || fail "--json takes a file"; json=$2; shift 2 ;;
        --no-build) build=no; shift ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | grep -v '^set'; exit ;;
        *) fail "'$1' is no option; call with --help" ;;
    esac
done

if [ -z "${ENGINE:-}" ]; then
    if docker info >/dev/null 2>&1; then ENGINE=docker; elif podman info >/dev/null 2>&1; then ENGINE=podman; else
        fail "neither docker nor podman works here: install one (Debian: apt-get install podman runc iptables, and
  pip install podman-compose)"
    fi
fi
case $ENGINE in
    docker) COMPOSE=${COMPOSE:-docker compose} format= ;;
    podman) COMPOSE=${COMPOSE:-podman-compose} format="--format docker" ;; # the other format has no health checks
    *) fail "ENGINE=$ENGINE: choose docker or podman" ;;
esac
$COMPOSE version >/dev/null 2>&1 || fail "'$COMPOSE' does not work: install docker's compose plugin, or podman-compose"

scratch=$(mktemp -d)
files=(-f "$here/compose.yml")
for overlay in ${OVERLAYS:-}; do files+=(-f "$here/$overlay"); done
export DELTAMASK_RUN_CONFIG=$config DELTAMASK_RUNS=$scratch/runs DELTAMASK_UID=${DELTAMASK_UID:-$(id -u)}
[ "$DELTAMASK_UID" != 0 ] || DELTAMASK_UID=1000 # nothing runs as root, whoever calls
mkdir -p "$scratch/runs"
if [ "$(id -u)" = 0 ]; then chown "$DELTAMASK_UID" "$scratch" "$scratch/runs"; fi

compose() { $COMPOSE -p "$project" "${files[@]}" "$@"; }
label=label=com.docker.compose
container() { $ENGINE ps -aq --filter "$label.project=$project" --filter "$label.service=$1"; }
clean_up() {
    say "cleaning up"
    compose down --volumes --timeout 5 >"$scratch/down.log" 2>&1 ||
        { cat "$scratch/down.log" >&2; say "not all of $project was removed"; }
    rm -rf "$scratch"
}
trap clean_up EXIT

seconds() { date +%s; }
declare -A took=() size=()
image() {
    local start
    start=$(seconds)
    # shellcheck disable=SC2086  # arguments are split at spaces, as said above
    $ENGINE build $format ${BASE:+--build-arg BASE="$BASE"} ${TORCH_INDEX:+--build-arg TORCH_INDEX="$TORCH_INDEX"} \
        --build-arg UID="$DELTAMASK_UID" ${BUILD_ARGS:-} \
        -f "$here/Dockerfile" --target "$1" -t "deltamask-$1" "$root" >"$scratch/build.log" 2>&1 ||
        { tail -40 "$scratch/build.log" >&2; fail "the image $1 was not built"; }
    took[$1]=$(($(seconds) - start))
}

for name in superlink supernode; do
    if [ $build = yes ]; then say "building deltamask-$name"; image $name; fi
    size[$name]=$($ENGINE image inspect --format '{{.Size}}' "deltamask-$name")
    say "deltamask-$name: $((size[$name] / 1000000)) MB, built in ${took[$name]:-0} s"
done

locked=(--no-healthcheck --network none --cap-drop ALL --security-opt no-new-privileges --read-only)
say "simulation in the image"
start=$(seconds)
mkdir "$scratch/simulation"
if [ "$(id -u)" = 0 ]; then chown "$DELTAMASK_UID" "$scratch/simulation"; fi
$ENGINE run --rm "${locked[@]}" --tmpfs /tmp --shm-size 512m -e PYTHONPATH=/app -e HOME=/tmp -e FLWR_HOME=/tmp/flwr \
    -e XDG_CACHE_HOME=/tmp/cache -e NUMBA_CACHE_DIR=/tmp/cache/numba -e MPLCONFIGDIR=/tmp/cache/matplotlib \
    -v "$scratch/simulation:/results:z" -w /results --entrypoint python deltamask-superlink \
    /app/deploy/simulate.py --supernodes 3 --run-config "$config" || fail "the simulation did not complete"
took[simulation]=$(($(seconds) - start))

say "compose demo"
start=$(seconds)
compose up -d --no-build >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" >&2; fail "the demo did not start"; }
run=$(container run)
[ -n "$run" ] || { cat "$scratch/up.log" >&2; fail "there is no container of the service run"; }
status=$($ENGINE wait "$run")
took[demo]=$(($(seconds) - start))
$ENGINE logs "$run"
if [ "$status" != 0 ]; then
    for service in keys superlink register superexec supernode-0 supernode-1 supernode-2; do
        for id in $(container $service); do say "$service"; $ENGINE logs --tail 30 "$id" >&2 || true; done
    done
    fail "the run ended with status $status"
fi

say "health checks"
for service in superlink supernode-0 supernode-1 supernode-2; do
    if [ "$ENGINE" = podman ]; then
        $ENGINE healthcheck run "$(container $service)" || fail "$service is not healthy"
    else
        health=$($ENGINE inspect --format '{{.State.Health.Status}}' "$(container $service)")
        [ "$health" = healthy ] || fail "$service is $health"
    fi
done

say "comparing the rounds"
facts=$(printf '"%s": %s, ' superlink_bytes "${size[superlink]}" supernode_bytes "${size[supernode]}" \
    superlink_build_seconds "${took[superlink]:-null}" supernode_build_seconds "${took[supernode]:-null}" \
    simulation_seconds "${took[simulation]}" demo_seconds "${took[demo]}")
$ENGINE run --rm -i "${locked[@]}" -v "$scratch:/results:ro,z" --entrypoint python deltamask-superlink - \
    "{${facts%, }}" "$rounds" "$config" "$ENGINE" "${OVERLAYS:-}" >"$scratch/figures.json" <<'PYTHON' ||
import json, os, sys
from pathlib import Path

facts, rounds, config, engine, overlays = sys.argv[1:]
folders = {"simulation": "/results/simulation/runs", "demo": "/results/runs"}
runs = {name: json.loads(Path(folder, "latest/results.json").read_text()) for name, folder in folders.items()}
digests = {name: [entry["digest"] for entry in run["rounds"]] for name, run in runs.items()}
for name, run in runs.items():
    clients = [entry["clients"]["ok"] for entry in run["rounds"]]
    if run["status"] != "completed" or clients != [3] * int(rounds) or len(set(digests[name])) != int(rounds):
        sys.exit(f"the {name} has not {rounds} rounds of three clients: it is {run['status']}, clients {clients}")
if digests["demo"] != digests["simulation"]:
    sys.exit(f"theta differs: {digests}")
figures = {
    "engine": engine,
    "machine": f"{os.cpu_count()} cores, {os.uname().machine}",
    "torch": runs["demo"]["versions"]["torch"],
    "overlays": overlays.split(),
    "run_config": config,
    "supernodes": 3,
    "digests_equal": True,
    "digests": digests["demo"],
    "accuracy": runs["demo"]["rounds"][-1]["accuracy"],
    **json.loads(facts),
}
print(json.dumps(figures, indent=2))
PYTHON
    fail "simulation and demo differ"
cat "$scratch/figures.json"
if [ -n "$json" ]; then cp "$scratch/figures.json" "$json"; fi
say "ok: $rounds rounds, theta as in the simulation"
