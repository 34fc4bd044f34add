#!/usr/bin/env bash
# Regenerates the Python code beside each .proto. CI runs it and expects no difference.
set -euo pipefail
cd "$(dirname "$0")"
venv=../.venv-proto
if [ ! -e "$venv/.installed" ] || [ gen-requirements.txt -nt "$venv/.installed" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet -r gen-requirements.txt
    touch "$venv/.installed"
fi
generate() { # $1: flags for services; rest: files
    local services=$1; shift
    PATH="$venv/bin:$PATH" "$venv/bin/python" -W ignore -m grpc_tools.protoc -I . \
        --python_out=. --mypy_out=quiet:. ${services:+--grpc_python_out=. --mypy_grpc_out=quiet:.} "$@"
}
generate ""  kedge_wire/v1/order.proto kedge_wire/v1/report.proto kedge_wire/onnx/model.proto
generate yes kedge_wire/v1/session.proto kedge_wire/v1/runtime.proto kedge_wire/oip/grpc_predict_v2.proto
