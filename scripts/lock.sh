#!/usr/bin/env bash
# Writes scripts/requirements/base.lock and scripts/requirements/dev.lock from pyproject.toml: Python 3.11, Linux on x86-64, with hashes.
# Arguments go to `uv pip compile`, for example: scripts/lock.sh --upgrade, or --upgrade-package fastapi
set -euo pipefail
ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"

UV="${UV:-$ROOT/.venv/bin/uv}"
if [[ ! -x "$UV" ]]; then
    echo "lock.sh: $UV is missing. Run scripts/test.sh once, or point UV at a uv." >&2
    exit 1
fi

compile() { # compile NAME [options]: resolves pyproject.toml into scripts/requirements/NAME.lock
    local lock="scripts/requirements/$1.lock"
    shift
    local uv=("$UV" pip compile pyproject.toml --quiet --no-config --no-header --no-emit-index-url --no-emit-find-links
        --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes --no-annotate "$@")
    # torch and what only its CUDA build needs stay out; torch's other dependencies stay in.
    local skip=() name
    for name in $("${uv[@]}" --output-file "$lock" && grep -oE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' "$lock"); do
        skip+=(--no-emit-package "${name%==}")
    done
    "${uv[@]}" "${skip[@]}" --output-file "$lock"
    sed -i '/^# The following packages were excluded/,$d' "$lock"
    sed -i "1i # Made by scripts/lock.sh from pyproject.toml; torch is installed apart, by scripts/setup_env.sh." "$lock"
    echo "$lock: $(grep -c '^[a-z0-9]' "$lock") packages"
}

compile base "$@"
compile dev --group dev --constraint scripts/requirements/base.lock "$@"
