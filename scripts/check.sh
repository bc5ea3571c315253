#!/usr/bin/env bash
# Format, lint, types, lock files, known holes in packages: all of them, then fails if one did.
# With --fix, formats and mends what ruff can.
set -euo pipefail
ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
"$ROOT/scripts/setup_env.sh" --dev
cd "$ROOT"
python="$ROOT/.venv/bin/python"

if [[ "${1:-}" == --fix ]]; then
    "$python" -m ruff format .
    "$python" -m ruff check --fix .
    exit
fi

failed=()
check() { # check NAME COMMAND…
    echo "== $1"
    "${@:2}" || failed+=("$1")
}
check format "$python" -m ruff format --check .
check lint "$python" -m ruff check .
check types "$python" -m mypy
check locks "$python" scripts/check_lock.py
check audit "$python" scripts/audit_lock.py
for script in scripts/*.sh .ci/run; do check "$script" bash -n "$script"; done

if ((${#failed[@]})); then
    echo "check.sh: failed: ${failed[*]}" >&2
    exit 1
fi
echo "check.sh: all is well"
