#!/usr/bin/env bash
# docs/tutorial.md, followed literally by a fresh Debian that has nothing but Python: from its packages to the prediction on
# an image. Prints every command and what it answered. Takes the installation's half hour and 7 GB, in a container that is
# removed at the end.
#
#   docker/tutorial.sh
#
# From the environment: ENGINE (docker or podman; default: the first that works), BASE (an image of Debian 12 with python3 and
# python3-venv; default: the Dockerfile's) and RUN_ARGS (more arguments of `run`, split at spaces).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fail() { printf 'tutorial.sh: %s\n' "$*" >&2; exit 1; }

if [ -z "${ENGINE:-}" ]; then
    if docker info >/dev/null 2>&1; then ENGINE=docker; elif podman info >/dev/null 2>&1; then ENGINE=podman; else
        fail "neither docker nor podman works here"
    fi
fi
base=${BASE:-$(sed -n 's/^ARG BASE=//p' "$root/docker/Dockerfile")}

# A copy of what is committed: a reader begins with a clone.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git -C "$root" archive HEAD | tar -x -C "$copy"
chmod 755 "$copy"

# shellcheck disable=SC2086  # arguments are split at spaces, as said above
$ENGINE run --rm -v "$copy:/deltamask" -w /deltamask ${RUN_ARGS:-} "$base" bash -euc '
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends make openssl openssh-client python3-venv procps >/dev/null
    python3 docs/run_tutorial.py --install'
