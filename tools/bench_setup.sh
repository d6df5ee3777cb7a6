#!/usr/bin/env bash
# Install into .venv what Deltaic is measured beside, and say which system packages are missing.
#   tools/bench_setup.sh
set -euo pipefail
[[ ${1:-} != --help ]] || { sed -n '2,3s/^# //p' "$0"; exit 0; }
cd "$(dirname "$0")/.."

missing=()
for each in nginx curl xdelta3 zstd strace; do
    PATH=$PATH:/usr/sbin command -v "$each" >/dev/null || missing+=("$each")
done
command -v sha256sum >/dev/null || missing+=(coreutils)
if (( ${#missing[@]} )); then
    echo "The benches measure beside programs that are not installed:  sudo apt-get install -y ${missing[*]}" >&2
    exit 1
fi

tools/step.sh "peers for the benches" .venv/bin/python -m pip --disable-pip-version-check --no-input install \
    --constraint constraints.txt --group bench
