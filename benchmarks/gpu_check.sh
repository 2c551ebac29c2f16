#!/usr/bin/env bash
# What this project does on this machine's NVIDIA GPU, as JSON in OUTDIR.
#
#   benchmarks/gpu_check.sh [--dry] OUTDIR [WHEELDIR]
#
# OUTDIR gets summary.md, to be read, and seven JSON files, written as the figures come: environment, cuda (our
# CUDA code, over a stand-in engine: no TensorRT is needed), torch (latency), parity and engines (TensorRT),
# training, tests (pytest -m gpu).  What says most comes first; a step that crashes or is cut leaves what it
# had.  Without a GPU it runs too, and the files say what was skipped and why.  It reads clocks, settings and
# energy and changes none.  It ends within 9 minutes, not counting the building of engines.
#
# --dry: the smallest encoder, once, within 90 seconds on two cores: does everything start?
#
# WHEELDIR: wheels for a machine that cannot fetch them (tensorrt_rtx, its bindings and libs, onnxsim).  They
# are installed for this run only.  A wheel may lie in parts: NAME.whl.partaa, NAME.whl.partab, ...
#
# PACKAGE: the package whose engines are checked; otherwise demo/out/demo.nemu.  `python -m
#          benchmarks.gpu_prepare FOLDER` makes a small one, engines included, on a machine without a GPU.
# PYTHON:  the interpreter (python3).  What it lacks (torch, say) is missing from the report.
# GPU_CHECK_OPTIONS: passed on, see python -m benchmarks.gpu_check --help.
set -euo pipefail
STARTED=$(date +%s)
export STARTED

dry=
if [ "${1:-}" = --dry ]; then
    dry=--dry
    shift
fi
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
note="no WHEELDIR was given"

if [ $# -eq 2 ]; then
    wheels=$(cd "$2" && pwd)
    mkdir "$work/wheels" "$work/site"
    shopt -s nullglob
    for wheel in "$wheels"/*.whl; do
        ln -s "$wheel" "$work/wheels/"
    done
    for first in "$wheels"/*.whl.partaa; do
        whole=${first%.partaa}
        cat "$whole".part?? > "$work/wheels/$(basename "$whole")"
    done
    found=("$work"/wheels/*.whl)
    if [ ${#found[@]} -eq 0 ]; then
        note="$wheels holds no wheels"
    elif "$python" -m pip install --quiet --no-index --find-links "$work/wheels" --no-deps \
        --target "$work/site" "${found[@]}" 2> "$work/pip.log"; then
        export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
        note="installed for this run: $(basename -a "${found[@]}" | tr '\n' ' ')"
    else
        note="pip could not install the wheels: $(tail -n 3 "$work/pip.log" | tr '\n' ' ')"
    fi
fi

cd "$(dirname "$0")/.."
# shellcheck disable=SC2086  # options are several words
WHEELS="$note" "$python" -m benchmarks.gpu_check "$out" $dry ${GPU_CHECK_OPTIONS:-}
