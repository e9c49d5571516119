#!/bin/sh
# Every check that needs a CUDA GPU, in one call of less than ten minutes: sh kernels/gpu_check.sh DIRECTORY [WHEELS]
#
# Runs the GPU tests, the loss bench and the training bench, and leaves in DIRECTORY their logs, JSON and Markdown. Each
# stage has its own time limit and does not depend on the others; what a stage had measured when its time ran out stays.
# WHEELS is a folder of wheels for a machine without a network: distilfast itself (with its compiled core) and whatever
# the Python there lacks (datasets and what it needs, pytest, hypothesis, liger-kernel). They are installed into a
# temporary folder. PYTHON names the interpreter (default python3), which has torch and triton.
set -u
[ $# = 1 ] || [ $# = 2 ] || { echo "usage: sh kernels/gpu_check.sh DIRECTORY [WHEELS]" >&2; exit 2; }
python=${PYTHON:-python3}
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
failed=
if [ $# = 2 ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    # One at a time: a wheel that does not fit this machine must not keep the others out.
    for wheel in "$2"/*.whl; do
        "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheel" >>"$out/wheels.log" 2>&1 ||
            failed="$failed $(basename "$wheel")"
    done
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
cd "$(dirname "$0")/.." || exit 2
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" - >"$out/versions.txt" 2>&1 <<'END' || { cat "$out/versions.txt"; exit 2; }
import platform, sys, torch, triton
print("python", platform.python_version(), "torch", torch.__version__, "triton", triton.__version__)
if not torch.cuda.is_available():
    sys.exit("torch sees no CUDA device")
print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).multi_processor_count, "multiprocessors")
import distilfast
print("distilfast", distilfast.__file__)
END
cat "$out/versions.txt"

# stage NAME SECONDS COMMAND...: at most so long, its output in NAME.log
stage() {
    name=$1 limit=$2
    shift 2
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || failed="$failed $name"
    tail -n 1 "$out/$name.log"
}

# Compiling is most of the tests' work: in several processes where pytest-xdist is there.
workers=$("$python" -c 'import os, xdist; print("-n", min(6, os.cpu_count() or 1))' 2>/dev/null)
stage losses 100 "$python" -m distilfast.bench losses --rows 16384 --vocabularies 30522 --overwrite true --json "$out/losses.json" --markdown "$out/losses.md"
# shellcheck disable=SC2086
stage tests 200 "$python" -m pytest -q $workers -m gpu --continue-on-collection-errors --junitxml="$out/tests.xml"
stage shapes 150 "$python" -m distilfast.bench losses --runs 20 --overwrite true --json "$out/shapes.json" --markdown "$out/shapes.md"
stage train 110 "$python" -m distilfast.bench train --overwrite true --json "$out/train.json"
for name in losses shapes; do
    [ ! -f "$out/$name.md" ] || cat "$out/$name.md"
done
[ -z "$failed" ] || { echo "failed:$failed (logs in $out)"; exit 1; }
