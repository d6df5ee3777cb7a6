#!/usr/bin/env bash
# Make .venv and install Deltaic with everything that its demo and its tests need.
#   PYTHON=python3.12 tools/setup.sh    with another Python (3.11 or newer)
# Safe to run again after an interruption. A second clone on a machine takes its engine from the wheel cache.
set -euo pipefail
[[ ${1:-} != --help ]] || { sed -n '2,4s/^# //p' "$0"; exit 0; }
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
install=(.venv/bin/python -m pip --disable-pip-version-check --no-input install --constraint constraints.txt)

missing=()
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    missing+=(python3.11 python3.11-venv)
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3.11-venv)
fi
command -v g++ >/dev/null || missing+=(g++)
command -v cmake >/dev/null || missing+=(cmake)
if (( ${#missing[@]} )); then
    {
        echo "Deltaic needs Python 3.11 or newer (PYTHON=$python), a C++ compiler and cmake."
        echo "On Debian or Ubuntu:  sudo apt-get install -y ${missing[*]}"
    } >&2
    exit 1
fi

if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    tools/step.sh "environment .venv" "$python" -m venv --clear .venv
fi
tools/step.sh "pip" "${install[@]}" --upgrade 'pip>=25.1'

wheel=$(.venv/bin/python tools/wheel_cache.py)
if [[ $(cat .venv/.engine-wheel 2>/dev/null) != "$wheel" ]]; then
    rm -f .venv/.engine-wheel
    tools/step.sh "llama-cpp-python" "${install[@]}" --force-reinstall --no-deps "$wheel"
    echo "$wheel" >.venv/.engine-wheel
fi

tools/step.sh "deltaic, for demo and development" "${install[@]}" --editable '.[demo]' --group dev

if ! command -v strace >/dev/null; then
    echo "    Without strace, the tests that kill processes at every system call are skipped:" \
        "sudo apt-get install -y strace"
fi
