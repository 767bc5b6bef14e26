#!/usr/bin/env bash
# Makes .venv with the versions of constraints.txt, once. Run again it does nothing until those files change.
#
#   PYTHON=python3.12 scripts/setup.sh     use this interpreter (3.11 or newer)
#   ACTLOOP_TORCH=cpu|default              which build of torch: by default CPU where no NVIDIA GPU is found
set -euo pipefail
cd "$(dirname "$0")/.."

extras="simulation,training,report,language,wan,serving,metaworld,dev"
venv=.venv
log=$venv/setup.log

fail() { echo "setup: $*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
        echo "$PYTHON"
        return
    fi
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if new_enough "$name"; then echo "$name"; return; fi
    done
    fail "needs Python 3.11 or newer; on Debian or Ubuntu: apt-get install python3 python3-venv"
}

# Debian and Ubuntu keep venv's own pip in a package of its own. Root may install it; anybody else is told how.
need_venv() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 && return
    local version package
    version=$("$1" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
    package=python$version-venv
    command -v apt-get >/dev/null || fail "$1 has no ensurepip module; install Python's venv support"
    [ "$(id -u)" = 0 ] || fail "$1 has no venv support; install it with: sudo apt-get install $package"
    echo "setup: installing $package"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; } \
        >/dev/null || fail "could not install $package"
}

has_nvidia() { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }

# pip alone would take the CUDA build of torch (several GB) on every machine. uv knows where the CPU builds are kept.
# Where uv cannot reach them, pip's own index decides.
install_torch() {
    local torch
    torch=$(grep -E '^torch==' constraints.txt)
    if [ "${ACTLOOP_TORCH:-}" = cpu ] || { [ -z "${ACTLOOP_TORCH:-}" ] && ! has_nvidia; }; then
        echo "setup: $torch for the CPU"
        if "$venv/bin/pip" install -qq uv >>"$log" 2>&1 &&
            UV_HTTP_RETRIES=0 "$venv/bin/uv" pip install -q --python "$venv/bin/python" --torch-backend=cpu \
                -c constraints.txt "$torch" >>"$log" 2>&1; then
            return
        fi
        echo "setup: the index of CPU builds is out of reach; taking what pip's own index has (details in $log)"
    else
        echo "setup: $torch"
    fi
    "$venv/bin/pip" install -qq "$torch"
}

python=$(find_python)
key=$({ cat pyproject.toml constraints.txt scripts/setup.sh; pwd; "$python" -VV; echo "${ACTLOOP_TORCH:-}"; } | sha256sum)
stamp=$venv/installed
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then exit 0; fi

started=$SECONDS
need_venv "$python"
echo "setup: making $venv with $("$python" -V)"
"$python" -m venv --clear "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$PWD/constraints.txt"
install_torch
echo "setup: actloop with $extras"
"$venv/bin/pip" install -qq -e ".[$extras]"
echo "$key" >"$stamp"
echo "setup: done in $((SECONDS - started)) s"
