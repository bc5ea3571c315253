#!/usr/bin/env bash
# Sets .venv up and runs Clearcut in the foreground until Ctrl-C: ./scripts/serve.sh [--gpu | --cpu] [--no-download] [CONFIG]
# CONFIG is serve_config.yaml unless named. HOST and PORT, from the environment or .env, go before its http_options.
# Model weights that are missing are fetched first if there is a connection; not with --no-download or CLEARCUT_DOWNLOAD=0.
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
        --no-download) export CLEARCUT_DOWNLOAD=0 ;;
        -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit ;;
        *) config=("$(realpath -- "$argument")") ;;
    esac
done

prepare() {
    "$ROOT/scripts/setup_env.sh" "${setup[@]}"
    # Whatever becomes of it, the service starts: without weights the embedded engines run.
    "$ROOT/.venv/bin/python" "$ROOT/scripts/fetch_weights.py" "${config[@]}" || true
}

# In a process group of its own, so that a signal ends pip and a download too.
set -m
prepare &
preparation=$!
trap 'kill -TERM -- "-$preparation" 2>/dev/null; wait "$preparation" || true; exit 130' INT TERM
wait "$preparation"
trap - INT TERM
set +m

exec "$ROOT/.venv/bin/python" "$ROOT/scripts/run_serve.py" "${config[@]}"
