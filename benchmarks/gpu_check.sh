#!/usr/bin/env bash
# Check and measure this project on this machine's NVIDIA GPU; writes JSON files to OUTDIR.
#
#   benchmarks/gpu_check.sh [--dry] OUTDIR [WHEELDIR]
#
# OUTDIR gets summary.md, the page to read, and seven JSON files: environment, cuda (our CUDA code over a
# stand-in engine, without TensorRT), torch (latency), parity and engines (TensorRT), training, tests
# (pytest -m gpu).  The steps that say most come first.  Figures are written as they are measured: a step that
# crashes or is stopped keeps what it has written.  It also runs without a GPU; the files then say what was
# skipped and why.  Clocks, settings and energy are read and never changed.  It takes at most 9 minutes, not
# counting the building of engines.
#
# --dry: the smallest encoder, once, within 90 seconds on two cores: does everything start?
#
# WHEELDIR: wheels for a machine that cannot download them (tensorrt_rtx, its bindings and libs, onnxsim).
# They are installed for this run only.  A wheel may be split: NAME.whl.partaa, NAME.whl.partab, ...
#
# PACKAGE: the package whose engines are checked (demo/out/demo.nemu).  Engines that it lacks are built if the
#          library is here.  For a machine that only runs TensorRT-RTX's engines, build them on another:
#          nemu build --package x.nemu --target rtx-portable [--embedding-only | --toward]
# PYTHON:  the interpreter (python3).  Steps whose modules it lacks, e.g. torch, are skipped.
# GPU_CHECK_OPTIONS: further options, see python -m benchmarks.gpu --help.
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
WHEELS="$note" "$python" -m benchmarks.gpu "$out" $dry ${GPU_CHECK_OPTIONS:-}
