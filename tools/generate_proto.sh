#!/usr/bin/env bash
# Generate deltaic/v1 from proto/, or check that the committed code is what would be generated.
#   tools/generate_proto.sh            write deltaic/v1
#   tools/generate_proto.sh --check    write nothing; fail when the code in deltaic/v1 differs
set -euo pipefail
cd "$(dirname "$0")/.."

generate() {  # generate INTO
    PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m grpc_tools.protoc --proto_path=proto \
        --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" \
        proto/deltaic/v1/*.proto
}

case ${1:-} in
    "")
        rm -f deltaic/v1/*_pb2*.py deltaic/v1/*_pb2*.pyi
        generate .
        ;;
    --check)
        fresh=$(mktemp -d)
        trap 'rm -rf "$fresh"' EXIT
        generate "$fresh"
        if ! diff --recursive --unified=1 --exclude=__init__.py --exclude=__pycache__ deltaic/v1 "$fresh/deltaic/v1"; then
            echo "deltaic/v1 is not what proto/ generates: run 'make proto' and commit the result" >&2
            exit 1
        fi
        ;;
    *)
        sed -n '2,4s/^# //p' "$0"
        [[ $1 == --help ]]
        ;;
esac
