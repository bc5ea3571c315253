#!/usr/bin/env bash
# Makes .venv with exactly the packages of scripts/requirements/*.lock and torch. The second run installs nothing.
#
#   scripts/setup_env.sh [--dev] [--gpu | --cpu]
#
#   --dev   the development tools too (tests, lint, types)
#   --gpu   torch's CUDA build and the `gpu` group of pyproject.toml; the default where an NVIDIA driver is visible
#   --cpu   torch's CPU build even so
#
# pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf, …) are honoured.
set -euo pipefail
ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"

VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
CPU_INDEX="https://download.pytorch.org/whl/cpu"
LOG="" INTERRUPTED=""

say() { echo "setup: $*"; }
die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

group=base # of scripts/requirements/*.lock; dev holds base
flavour=""
for option in "$@"; do
    case "$option" in
        --dev) group=dev ;;
        --gpu) flavour=cuda ;;
        --cpu) flavour=cpu ;;
        *) die "unknown option $option (known: --dev --gpu --cpu)" ;;
    esac
done

# --- what should be there, what is there ----------------------------------------------------------------------------

find_python() { # prints a Python 3.11, or explains what to install
    local candidate
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import ensurepip, venv' 2>/dev/null \
                || die "this Python 3.11 cannot make virtual environments. On Debian: apt install python3.11-venv"
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 is missing. On Debian 12: apt install python3.11 python3.11-venv"
}

has_nvidia_driver() { [[ -e /proc/driver/nvidia/version ]] || { command -v nvidia-smi && nvidia-smi -L; } &>/dev/null; }

wanted() { # what the stamp of group $1 says when that group is installed
    local line
    line="$(sha256sum "scripts/requirements/$1.lock")"
    echo "${line%% *} torch-$TORCH-$flavour"
}
installed() { [[ "$(cat "$VENV/.installed-$1" 2>/dev/null)" == "$(wanted "$1")" ]]; }

TORCH="$(sed -nE 's/^ *"torch==([0-9.]+)".*/\1/p' pyproject.toml)"
if [[ -z "$flavour" ]]; then
    # A CUDA build that was asked for once (an image built on a machine without a GPU) is kept.
    if has_nvidia_driver || grep -qsx cuda "$VENV/.torch"; then flavour=cuda; else flavour=cpu; fi
fi
if installed "$group"; then exit 0; fi

# --- one installation at a time --------------------------------------------------------------------------------------

exec {lock}<"$ROOT/scripts/requirements/base.lock"
flock --nonblock "$lock" || { say "another installation is running here, waiting for it"; flock "$lock"; }
if installed "$group"; then exit 0; fi

started=$SECONDS
LOG="$(mktemp)"
trap 'rm -f "$LOG"' EXIT
trap 'INTERRUPTED=1' INT TERM

explain_failure() { # after pip failed: what the reader can do about it
    # Packages may be half written only if pip had begun to write them.
    [[ -n "$INTERRUPTED" ]] || grep -q 'Installing collected packages' "$LOG" || rm -f "$VENV/.installing"
    [[ -z "$INTERRUPTED" ]] || die "interrupted; the next start begins anew"
    if grep -qE 'No space left|Errno 28|Disk quota' "$LOG"; then
        die "the disk is full: .venv needs about 2 GB (CPU) or 8 GB (CUDA), and /tmp as much while downloading" "$(df -h "$ROOT" "${TMPDIR:-/tmp}")"
    elif grep -q 'DO NOT MATCH THE HASHES' "$LOG"; then
        die "the package index served a file that differs from the lock file (see above)"
    elif grep -qE 'NewConnectionError|NameResolutionError|Name or service not known|name resolution|unreachable|refused|timed out|SSLError|ProxyError|Could not fetch URL' "$LOG"; then
        die "the package index cannot be reached. Check the network, or name another one: PIP_INDEX_URL=https://…/simple"
    fi
    die "pip could not install the packages (see above)"
}
pip() { "$PYTHON" -m pip --disable-pip-version-check --log "$LOG" install "$@"; }

# --- the environment -------------------------------------------------------------------------------------------------

if [[ -e "$VENV/.installing" ]]; then
    say "an earlier installation was interrupted: beginning anew"
    rm -rf "$VENV"
elif [[ -e "$VENV" ]] && ! "$PYTHON" -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    say ".venv has no working Python 3.11: making it anew"
    rm -rf "$VENV"
fi
if [[ ! -e "$VENV" ]]; then
    base_python="$(find_python)"
    need_kb=$([[ "$flavour" == cuda ]] && echo 8000000 || echo 2000000)
    free_kb="$(df -Pk "$ROOT" | awk 'NR == 2 {print $4}')"
    ((free_kb > need_kb)) || die "not enough disk: .venv needs $((need_kb / 1000000)) GB, $((free_kb / 1000)) MB are free in $ROOT"
    say "making .venv with $base_python"
    "$base_python" -m venv "$VENV" || { rm -rf "$VENV"; die "could not make .venv (see above)"; }
fi

touch "$VENV/.installing"
rm -f "$VENV"/.installed-*
say "installing scripts/requirements/$group.lock ($(grep -c '^[a-z0-9]' "scripts/requirements/$group.lock") packages)"
pip --require-hashes --requirement "scripts/requirements/$group.lock" || explain_failure

# --- torch: its builds come from different places, so it stands in no lock file ------------------------------------------

torch_build() { "$PYTHON" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true; }

install_cpu_torch() {
    if timeout 3 "$PYTHON" -c "import urllib.request as r; r.urlopen('$CPU_INDEX/torch/', timeout=3)" &>/dev/null; then
        say "installing torch $TORCH, CPU build, from $CPU_INDEX"
        if pip --no-deps --index-url "$CPU_INDEX" "torch==$TORCH"; then return 0; fi
        [[ -z "$INTERRUPTED" ]] || return 1
        say "that failed; trying the package index"
    else
        say "installing torch $TORCH from the package index ($CPU_INDEX does not answer within 3 s)"
    fi
    pip "torch==$TORCH"
}

install_cuda_torch() {
    say "installing torch $TORCH, CUDA build"
    # === takes no local version such as +cpu for an answer.
    pip "torch===$TORCH" || return 1
    local requirement
    while read -r requirement; do # one by one: pycuda is compiled and needs nvcc, TensorRT comes from NVIDIA's index
        say "installing $requirement (gpu group)"
        pip "$requirement" || say "WARNING: $requirement could not be installed (see above); torch runs on the GPU without it"
    done < <("$PYTHON" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["gpu"], sep="\n")')
}

if [[ "$(torch_build) $(cat "$VENV/.torch" 2>/dev/null)" != "$TORCH"*" $flavour" ]]; then
    rm -f "$VENV/.torch"
    # pip takes one build of a version for as good as another.
    [[ -z "$(torch_build)" ]] || "$PYTHON" -m pip --quiet uninstall --yes torch || explain_failure
    "install_${flavour}_torch" || explain_failure
    echo "$flavour" >"$VENV/.torch"
fi
[[ -z "$INTERRUPTED" ]] || explain_failure

wanted base >"$VENV/.installed-base"
[[ "$group" == base ]] || wanted "$group" >"$VENV/.installed-$group"
rm -f "$VENV/.installing"
say "ready after $((SECONDS - started)) s: $("$PYTHON" --version), torch $(torch_build)"
