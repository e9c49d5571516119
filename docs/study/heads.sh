#!/bin/sh
# Classifiers and taggers: an encoder fine-tuned for a task (the teacher, once), distilled to half its layers, and beside it
# the same half fine-tuned with no teacher, both with every seed. Each part is left out where its result lies already, so
# the script can be stopped and started again, and the tasks and seeds may come in any order.
#
#   sh docs/study/heads.sh ENCODER DATA OUTPUT "sst2 gum ner mrpc imdb" "1 2 3"
#
# ENCODER: a directory or a hub id (all-MiniLM-L6-v2 in the tables). DATA: a folder with GLUE's glue/SST-2 and glue/MRPC,
# imdb/train.tsv and tagging/.
set -eu
encoder=$1 data=$2 output=$3 tasks=$4 seeds=$5
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$output"
cd "$output"

[ -d half ] || python -c "
import distilfast, sys, transformers
encoder = transformers.AutoModel.from_pretrained(sys.argv[1])
distilfast.create_student(encoder).save_pretrained('half')
transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained('half')" "$encoder"

train() { # train OUTPUT FLAGS...: once, and never half
    to=$1
    shift
    [ -f "$to/train_summary.json" ] || python -m distilfast train --output_dir "$to" --overwrite --report_to none "$@"
}

for task in $tasks; do
    case $task in
    sst2) head=classification teacher="--num_train_epochs 2" half="--num_train_epochs 4" file=csv ;;
    mrpc) head=classification teacher="--num_train_epochs 4" half="--num_train_epochs 8" file=csv ;;
    imdb) head=classification teacher="--num_train_epochs 2" half="--num_train_epochs 4" file=csv ;;
    gum | ner) head=tokens teacher="--num_train_epochs 10" half="--num_train_epochs 20" file=conll ;;
    *) echo "unknown task $task" >&2 && exit 2 ;;
    esac
    [ -f "$task.dev.$file" ] || python "$here/heads_data.py" "$task" "$data" .
    rows="--train_file $task.train.$file --validation_file $task.dev.$file --eval_strategy no"
    # shellcheck disable=SC2086
    train "$task-teacher" --student "$encoder" --head $head $rows --seed 1 --learning_rate 5e-5 $teacher
    for seed in $seeds; do
        # shellcheck disable=SC2086
        {
            train "$task-$seed-student" --teacher "$task-teacher" $rows --seed "$seed" --learning_rate 1e-4 $half
            train "$task-$seed-plain" --student half --head $head $rows --seed "$seed" --learning_rate 1e-4 $half
        }
        for who in student plain; do
            [ -f "$task-$seed-$who-report/evaluate.json" ] || python -m distilfast evaluate --teacher "$task-teacher" \
                --student "$task-$seed-$who" --validation_file "$task.dev.$file" --output_dir "$task-$seed-$who-report"
        done
    done
done
