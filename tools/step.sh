#!/usr/bin/env bash
# Run one step of a check: one line when it passes, all of its output when it fails.
#   tools/step.sh NAME COMMAND [ARGUMENT...]
set -euo pipefail
if [[ $# -lt 2 || $1 == --help ]]; then
    sed -n '2,3s/^# //p' "$0"
    exit $(( $# < 1 ))
fi
name=$1
shift
output=$(mktemp)
trap 'rm -f "$output"' EXIT
printf '    %-34s ' "$name"
started=$(date +%s%N)
status=0
"$@" >"$output" 2>&1 </dev/null || status=$?
tenths=$(( ($(date +%s%N) - started) / 100000000 ))
if (( status )); then
    echo FAILED
    cat "$output"
    exit "$status"
fi
printf 'ok  %d.%d s\n' $(( tenths / 10 )) $(( tenths % 10 ))
