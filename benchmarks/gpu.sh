#!/bin/sh
# Measure everything that decides kdbench's design on a GPU: one command, under eight minutes, one GPU.
#
#   benchmarks/gpu.sh [further options of benchmarks/gpu.py]
#
# Needs Python >= 3.11 with torch (CUDA), NumPy and PyYAML; PYTHON names another one. Prints a page in Markdown and
# writes it to results/benchmarks/gpu.md, or where `--write FILE` says.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec timeout --signal=INT --kill-after=10 480 "${PYTHON:-python3}" benchmarks/gpu.py --write "$@"
