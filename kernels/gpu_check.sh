#!/bin/sh
# Every check that needs a CUDA GPU, in one call of less than ten minutes: sh kernels/gpu_check.sh DIRECTORY [WHEELS]
#
# Runs the GPU tests, the loss bench, the training bench and a profile of the loss kernel, and leaves two files in
# DIRECTORY: tables.md, and results.tar.gz with the log, JSON and Markdown of every stage. Each stage has its own time
# limit and does not depend on the others; both files are written anew after each, and what a stage had measured when its
# time ran out is in them.
# WHEELS is a folder of wheels for a machine without a network: distilfast itself (with its compiled core) and whatever
# the Python there lacks (pyarrow, accelerate, pytest, hypothesis, liger-kernel, trl; `datasets` is not needed). They are
# installed into a temporary folder. PYTHON names the interpreter (default python3), which has torch and triton.
# DRY_RUN=1 rehearses all of it without a GPU: the same stages, tiny and on the CPU; GPU tests are collected, not run.
set -u
[ $# = 1 ] || [ $# = 2 ] || { echo "usage: sh kernels/gpu_check.sh DIRECTORY [WHEELS]" >&2; exit 2; }
python=${PYTHON:-python3}
mkdir -p "$1" || exit 2
target=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/results
mkdir "$out"
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
failed=
if [ $# = 2 ]; then
    # One at a time: a wheel that does not fit this machine must not keep the others out.
    for wheel in "$2"/*.whl; do
        "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$wheel" \
            >>"$out/wheels.log" 2>&1 || failed="$failed $(basename "$wheel")"
    done
    export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
fi
cd "$(dirname "$0")/.." || exit 2
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" - >"$out/versions.txt" 2>&1 <<'END' || { cat "$out/versions.txt"; exit 2; }
import importlib.metadata, os, platform, sys
print("python", platform.python_version())
for name in ("torch", "triton", "transformers", "accelerate", "datasets", "liger-kernel", "trl"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "is not installed" + (", so it is not compared" if name in ("liger-kernel", "trl") else ""))
import torch
if torch.cuda.is_available():
    print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).multi_processor_count, "multiprocessors")
elif not os.environ.get("DRY_RUN"):
    sys.exit("torch sees no CUDA device")
import distilfast
print("distilfast", distilfast.__file__)
END
cat "$out/versions.txt"

# Both files as they are now: written beside, then renamed.
collect() {
    {
        cat "$out/versions.txt"
        for name in losses shapes train compiled; do
            [ ! -f "$out/$name.md" ] || { echo && cat "$out/$name.md"; }
        done
        [ ! -f "$out/dram.csv" ] || { echo && grep -v '^==' "$out/dram.csv"; }
    } >"$target/.tables.md" 2>&1
    tar -czf "$target/.results.tar.gz" -C "$work" results
    mv "$target/.tables.md" "$target/tables.md"
    mv "$target/.results.tar.gz" "$target/results.tar.gz"
}

# stage NAME SECONDS COMMAND...: at most so long, its output in NAME.log
stage() {
    name=$1 limit=$2
    shift 2
    [ -z "${DRY_RUN:-}" ] || limit=900  # a rehearsal is of what is run, not of how long it takes
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || failed="$failed $name"
    echo "$name: $(tail -n 1 "$out/$name.log")"
    collect
}

losses="--rows 16384 --vocabularies 30522" shapes="--runs 20" tests="-q -m gpu" train="--rounds 3"
if [ -n "${DRY_RUN:-}" ]; then
    export CUDA_VISIBLE_DEVICES=
    losses="--device cpu --rows 4 --vocabularies 33 --hidden 8 --runs 1 --compile false" shapes=$losses
    tests="-q -m gpu --collect-only tests/kernels tests/models/test_attention.py"
    train="--size tiny --layout packed --batch_tokens 256 --max_length 64 --rounds 1 --batches 1 --batches_per_step 1"
fi
# Compiling is most of the tests' work: in several processes where pytest-xdist is there.
workers=$("$python" -c 'import os, xdist; print("-n", min(6, os.cpu_count() or 1))' 2>/dev/null)
# shellcheck disable=SC2086
stage losses 90 "$python" -m distilfast.bench losses $losses --json "$out/losses.json" --markdown "$out/losses.md"
# shellcheck disable=SC2086
stage tests 160 "$python" -m pytest $tests $workers --continue-on-collection-errors --junitxml="$out/tests.xml"
# shellcheck disable=SC2086
stage train 80 "$python" -m distilfast.bench train $train --json "$out/train.json" --markdown "$out/train.md"
# shellcheck disable=SC2086
stage shapes 90 "$python" -m distilfast.bench losses $shapes --json "$out/shapes.json" --markdown "$out/shapes.md"
if command -v ncu >/dev/null 2>&1; then
    # Bytes that the kernel reads from and writes to the GPU's memory, beside 6 a logit; few of its launches are enough.
    # shellcheck disable=SC2086
    stage dram 40 ncu --csv --log-file "$out/dram.csv" --kernel-name distillation_kernel --launch-count 2 \
        --metrics dram__bytes_read.sum,dram__bytes_write.sum,gpu__time_duration.sum \
        "$python" -m distilfast.bench losses $losses --runs 1 --compile false --linear false
else
    echo "dram: ncu is not installed, so the bytes that the kernel moves are not counted"
fi
if [ -z "${DRY_RUN:-}" ]; then
    # shellcheck disable=SC2086
    stage compiled 100 "$python" -m distilfast.bench train $train --compile true --json "$out/compiled.json" \
        --markdown "$out/compiled.md"
fi
cat "$target/tables.md"
[ -z "$failed" ] || { echo "failed:$failed (logs in $target/results.tar.gz)"; exit 1; }
