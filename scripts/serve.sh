#!/usr/bin/env bash
# Sets .venv up and runs Clearcut in the foreground until Ctrl-C: ./scripts/serve.sh [--gpu | --cpu] [CONFIG]
# CONFIG is serve_config.yaml unless named. HOST and PORT, from the environment or .env, go before its http_options.
set -euo pipefail

# A shell starts background jobs with SIGINT ignored, and an ignored signal cannot be trapped.
[[ -n "${CLEARCUT_SIGNALS_RESET:-}" ]] || CLEARCUT_SIGNALS_RESET=1 exec env --default-signal=INT "$BASH" "${BASH_SOURCE[0]}" "$@"
unset CLEARCUT_SIGNALS_RESET

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

setup=()
config=()
for argument in "$@"; do
    case "$argument" in
        --gpu | --cpu) setup+=("$argument") ;;
        -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"; exit ;;
        *) config=("$(realpath -- "$argument")") ;;
    esac
done

# In a process group of its own, so that a signal during the installation ends pip too.
set -m
"$ROOT/scripts/setup_env.sh" "${setup[@]}" &
installation=$!
trap 'kill -TERM -- "-$installation" 2>/dev/null; wait "$installation" || true; exit 130' INT TERM
wait "$installation"
trap - INT TERM
set +m

exec "$ROOT/.venv/bin/python" "$ROOT/scripts/run_serve.py" "${config[@]}"
