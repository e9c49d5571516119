#!/bin/sh
# A converged masked-language model, AntiBERTy, distilled from 8 to 4 layers: the ablation, and what a student forgets of
# sequences of other kinds than it is trained on. Each part is left out where its result lies already.
#
#   sh docs/study/antibody.sh DATA OUTPUT [SEEDS] ["ablation forgetting"]
#
# DATA: a folder with train.txt, held_out.txt and other_kinds.txt, one antibody sequence a line. SEEDS: how many (3).
# Needs: pip install distilfast, and what antibody.py says.
set -eu
data=$(cd "$1" && pwd) seeds=${3:-3} parts=${4:-ablation forgetting}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$2"
cd "$2"
export HF_HUB_OFFLINE=1

[ -f other_judged.txt ] || python "$here/antibody.py" "$data" .
[ -d tokens ] || distilfast prepare --tokenizer teacher --text train.txt other_seen.txt --output_dir tokens --max_length 164
[ -d train_tokens ] || distilfast prepare --tokenizer teacher --text train.txt --output_dir train_tokens --max_length 164

# The ablation: 150 steps of 2,048 tokens a student.
recipe="--batch_tokens 2048 --learning_rate 5e-4 --warmup_steps 0.1 --precision bf16 --logging_steps 25"
case $parts in *ablation*) [ -f ablation/ablate.json ] || distilfast ablate --teacher teacher --tokens train_tokens --held_out held_out.txt \
    --max_length 164 --steps 150 --seeds "$seeds" --controls --output_dir ablation --train_flags "$recipe" ;;
esac
case $parts in *forgetting*) ;; *) exit 0 ;; esac

# What is forgotten: every student is judged on half of the other kinds and on the text trained on, before training and at
# its end. The other half may be seen: mixed into the text, or to stop by.
student() { # student NAME SEED TOKENS FLAGS...
    to=forgetting/$1-seed$2 seed=$2 tokens=$3
    shift 3
    # shellcheck disable=SC2086
    [ -f "$to/train_summary.json" ] || distilfast train --teacher teacher --tokens "$tokens" --output_dir "$to" --overwrite \
        --max_length 164 --max_steps 150 --seed "$seed" --guard_text other_judged.txt --save_strategy no --report_to none \
        --disable_tqdm true $recipe "$@"
}
seed=0
while [ "$seed" -lt "$seeds" ]; do
    student full "$seed" train_tokens
    student mixed "$seed" tokens --text_weights 3 1
    student slow "$seed" train_tokens --learning_rate 1e-4
    student cosine "$seed" train_tokens --alpha_cos 10
    seed=$((seed + 1))
done
python - <<'PYTHON'
import json, pathlib

found = {}
for file in sorted(pathlib.Path("forgetting").glob("*/train_summary.json")):
    summary = json.loads(file.read_text())
    names = ("guard", "text_shares", "steps", "learning_rate", "alpha_cos", "computing_dtype", "versions")
    found[file.parent.name] = {name: summary[name] for name in names}
pathlib.Path("forgetting.json").write_text(json.dumps(found, indent=1) + "\n")
PYTHON

# The students of the first seed on text that nobody was trained on, beside the untrained cut.
set --
for name in full mixed slow cosine; do
    [ -d "forgetting/$name-seed0" ] && set -- "$@" --student "$name=forgetting/$name-seed0"
done
[ -f held_out/evaluate.json ] || distilfast evaluate --teacher teacher "$@" --text held_out.txt other_judged.txt --controls \
    --max_length 164 --max_lines 200 --speed false --pictures false --output_dir held_out
