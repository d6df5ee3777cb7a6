#!/usr/bin/env bash
# Write constraints.txt: the newest versions that pyproject.toml allows, as a fresh environment resolves them.
#   tools/lock.sh
# Run the tests afterwards, then commit the result.
set -euo pipefail
[[ ${1:-} != --help ]] || { sed -n '2,4s/^# //p' "$0"; exit 0; }
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

"${PYTHON:-python3.11}" -m venv "$fresh/venv"
python=$fresh/venv/bin/python
"$python" -m pip --quiet install --upgrade 'pip>=25.1'
wheel=$("$python" tools/wheel_cache.py)
"$python" -m pip --quiet install "$wheel" '.[demo]' --group dev --group bench
{
    echo "# What Deltaic was tested with; written by 'make lock'. pyproject.toml says what it works with."
    "$python" -m pip list --format=freeze --exclude deltaic --exclude pip --exclude setuptools --exclude wheel
} >"$fresh/constraints.txt"
cp "$fresh/constraints.txt" constraints.txt
