#!/bin/sh
# The wheel in dist/ where there is no torch: its compiled part loads and tokenises.
set -eu
python3 -m venv /tmp/compiled
/tmp/compiled/bin/pip install --quiet filelock numpy pyarrow transformers
/tmp/compiled/bin/pip install --quiet --no-deps dist/*.whl
cd /tmp
/tmp/compiled/bin/python - <<'PYTHON'
from pathlib import Path

import distilfast as df

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "line", "##s", "of", "text"]
Path("vocab.txt").write_text("\n".join(words) + "\n")
ids = df.Tokenizer.from_file("vocab.txt").encode_batch(["A line of text", "lines"]).to_pylist()
assert ids == [[2, 5, 6, 8, 9, 3], [2, 6, 7, 3]], ids
print("distilfast", df.__version__, ids)
PYTHON
