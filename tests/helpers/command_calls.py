"""A valid call of every command, and of every road of those that have several, on what `command_material` makes."""

from __future__ import annotations

OUT = "out"
FEW_STEPS = "--max_steps 2 --save_steps 1 --logging_steps 1 --report_to none --disable_tqdm true --use_cpu true"
ROAD = f"--teacher teacher --max_length 48 --batch_tokens 256 {FEW_STEPS}"
ROWS = f"--max_length 32 --per_device_train_batch_size 8 {FEW_STEPS} --output_dir {OUT}"
SENTENCES = (
    f"--teacher encoder --student encoder_2=encoder --speed false --pictures false --device cpu --output_dir {OUT}"
)
VALID = {
    "prepare": f"--tokenizer vocab.txt --text text.txt --output_dir {OUT} --max_length 48 --disable_tqdm true",
    "train": f"{ROAD} --text text.txt --output_dir {OUT}",
    "train tokens": f"{ROAD} --tokens tokens --layers 1 --output_dir {OUT}",
    "evaluate": f"--teacher teacher --student student --text held_out.txt --speed false --pictures false "
    f"--device cpu --output_dir {OUT}",
    "evaluate rows": f"--teacher classifier --student classifier_2=classifier --validation_file rows.csv --speed false "
    f"--pictures false --device cpu --output_dir {OUT}",
    "export": f"--student student --output_dir {OUT}",
    "ablate": f"--text text.txt --held_out held_out.txt --teacher teacher --steps 1 --seeds 1 --max_length 48 "
    f"--device cpu --output_dir {OUT}",
    "train rows": f"--teacher classifier --train_file rows.csv {ROWS}",
    "train tagger": f"--teacher tagger --train_file words.conll {ROWS}",
    "train questions": f"--teacher answerer --train_file questions.jsonl {ROWS}",
    "train sentences": f"--teacher encoder --text text.txt --batch_tokens 256 {FEW_STEPS} --output_dir {OUT}",
    "evaluate sts": f"--sts_file pairs.csv {SENTENCES}",
    "evaluate retrieval": f"--retrieval_dir collection {SENTENCES}",
    "export onnx": f"--student classifier --onnx true --int8 true --output_dir {OUT}",
    "trim": f"--model teacher --vocabulary 70 --text text.txt --output_dir {OUT}",
    "demo": "--text text.txt --vocab_size 90 --hidden_size 64 --layers 2 --teacher_steps 1 --student_steps 1 "
    f"--max_length 32 --batch_tokens 128 --disable_tqdm true --output_dir {OUT}",
    "bench tokenize": f"--vocab vocab.txt --text text.txt --megabytes 0.01 --slow_megabytes 0.01 --runs 1 --json {OUT}",
    "bench batches": f"--rows 200 --batch_tokens 1024 --rounds 1 --seconds 0.01 --plan_rows 200 --json {OUT}",
    "bench losses": "--device cpu --rows 8 --vocabularies 50 --hidden 8 --runs 1 --compile false --threads 1 "
    f"--json {OUT}",
    "bench train": "--size tiny --batch_tokens 64 --max_length 32 --batches 1 --batches_per_step 2 --rounds 1 "
    f"--text text.txt --threads 1 --json {OUT}",
}
LONG = ("demo", "bench batches", "bench losses", "bench train", "ablate")
"""Commands that take minutes or more where a flag that makes them short is left out."""
