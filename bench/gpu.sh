#!/usr/bin/env bash
# The 124M recipes on one NVIDIA GPU, measured: ./bench/gpu.sh --data FOLDER [--python FILE] [flags of bench/gpu.py]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python3
if [ -x "$root/.venv/bin/python" ]; then python="$root/.venv/bin/python"; fi
if [ "${1:-}" = --python ]; then python="$2"; shift 2; fi
export CUBLAS_WORKSPACE_CONFIG=:4096:8  # cuBLAS keeps its order of sums only with a fixed workspace
export PYTHONUNBUFFERED=1
echo "+ $python bench/gpu.py $*" >&2
exec "$python" "$root/bench/gpu.py" "$@"
