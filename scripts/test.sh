#!/usr/bin/env bash
# Sets .venv up and runs the tests: ./scripts/test.sh [--all | --long] [--gpu | --cpu] [pytest's arguments]
# Without --all the slow tests are left out; those that take minutes each run with --long only, which runs everything.
set -euo pipefail
ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

setup=(--dev)
select=(-m "not slow")
arguments=()
for argument in "$@"; do
    case "$argument" in
        --all) select=(-m "not long") ;;
        --long) select=() ;;
        --gpu | --cpu) setup+=("$argument") ;;
        -m | -m?*) select=() arguments+=("$argument") ;;
        *) arguments+=("$argument") ;;
    esac
done
"$ROOT/scripts/setup_env.sh" "${setup[@]}"

cd "$ROOT"
export RAY_USAGE_STATS_ENABLED=0
exec "$ROOT/.venv/bin/python" -m pytest "${select[@]}" "${arguments[@]}"
