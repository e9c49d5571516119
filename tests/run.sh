#!/bin/sh
# The whole suite, or one part of it (rust | python | interpreter), each part in a process of its own; one summary last.
#
# The interpreter part runs the Triton kernels on the CPU. Triton reads TRITON_INTERPRET when it is imported, so those
# tests cannot share a process with the others.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
parts=${*:-rust python interpreter}
export HYPOTHESIS_PROFILE="${HYPOTHESIS_PROFILE:-ci}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
# The models of the tests are tiny: a thread each, and a process for each core.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed_parts=

for part in $parts; do
    echo "== $part"
    case $part in
    rust) (cargo test --locked --no-default-features 2>&1; echo $? >"$logs/$part.status") | tee "$logs/$part.log" ;;
    python) ("$python" -m pytest -q -n logical --dist loadfile --durations=15 -m 'not interpret' 2>&1; echo $? >"$logs/$part.status") | tee "$logs/$part.log" ;;
    interpreter) (TRITON_INTERPRET=1 "$python" -m pytest -q -n logical -m interpret 2>&1; echo $? >"$logs/$part.status") | tee "$logs/$part.log" ;;
    *) echo "unknown part $part: rust, python or interpreter"; exit 2 ;;
    esac
    [ "$(cat "$logs/$part.status")" = 0 ] || failed_parts="$failed_parts $part"
done

# cargo closes each binary with 'test result: ok. 3 passed; 0 failed; ...', pytest with '3 passed, 1 skipped in 2s'.
count() { cat "$logs"/*.log | grep -E '^test result:|(passed|failed|skipped|error).* in [0-9.]+s' | grep -oE "[0-9]+ $1" | awk '{n += $1} END {print n + 0}'; }
failures=$(( $(count failed) + $(count error) ))
[ -z "$failed_parts" ] || { echo "failed:$failed_parts"; [ "$failures" -gt 0 ] || failures=1; }
echo "$(count passed) passed, $failures failed, $(count skipped) skipped"
[ "$failures" = 0 ]
