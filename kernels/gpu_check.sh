#!/bin/sh
# Every check that needs a CUDA GPU, in one call that builds nothing: sh kernels/gpu_check.sh DIRECTORY
#
# Runs the GPU tests, the loss bench and the training bench, and leaves in DIRECTORY their logs, JSON and Markdown.
# PYTHON names the interpreter (default python3); one that has torch, triton and distilfast.
set -u
[ $# = 1 ] || { echo "usage: sh kernels/gpu_check.sh DIRECTORY" >&2; exit 2; }
python=${PYTHON:-python3}
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
cd "$(dirname "$0")/.." || exit 2
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "torch sees no CUDA device" >&2; exit 2; }
failed=

"$python" -m pytest -q -m gpu --junitxml="$out/tests.xml" >"$out/tests.log" 2>&1 || failed="$failed tests"
tail -n 1 "$out/tests.log"

"$python" kernels/bench.py --json "$out/losses.json" >"$out/losses.log" 2>&1 || failed="$failed losses"
[ -f "$out/losses.json" ] && "$python" kernels/bench.py --markdown "$out/losses.json" >"$out/losses.md"

if "$python" -c 'import distilfast.bench.train' 2>/dev/null; then
    "$python" -m distilfast.bench train --json "$out/train.json" >"$out/train.log" 2>&1 || failed="$failed train"
fi

cat "$out/losses.md" 2>/dev/null
[ -z "$failed" ] || { echo "failed:$failed (logs in $out)"; exit 1; }
