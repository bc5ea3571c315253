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

# Every process of the cluster inherits these.
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
# A dead proxy is replaced after 3 s instead of 29 s.
export RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S="${RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S:-1}"
export RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S="${RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S:-2}"
# uvicorn believes X-Forwarded-For from these peers, and from 127.0.0.1 by default: name an address that is no one's.
export FORWARDED_ALLOW_IPS="${FORWARDED_ALLOW_IPS:-255.255.255.255}"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1

cd "$ROOT" # WORK_DIR, MODELS_DIR and .env are relative to it
exec "$ROOT/.venv/bin/python" "$ROOT/scripts/run_serve.py" "${config[@]}"
