# Two commands: `make demo` and `make test`. Each makes .venv with what constraints.txt pins, builds, and runs.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
OUT ?= out
# An older transformers beside the pinned one: what we save must load there too.
OLDER := $(abspath $(VENV))/transformers-4

RUST_SOURCES := $(shell find rust -type f) Cargo.toml Cargo.lock rust-toolchain.toml

.PHONY: demo study mutants test test-rust test-python test-interpreter examples docs lint bench gpu-check wheel clean

demo: $(VENV)/.built
	$(PY) -m distilfast.demo --output_dir $(OUT)/demo --overwrite True

# The study of docs/study.md, hours; what has a result is left out, so that it can be stopped and started again. DATA: a
# folder with what the scripts name. `make study PARTS=antibody` runs one of them, in any order.
PARTS ?= heads sentences antibody
study: $(VENV)/.built
	test -d "$(DATA)" || { echo "make study DATA=folder" >&2; exit 2; }
	PATH="$(abspath $(VENV))/bin:$$PATH" OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 \
	    sh docs/study/all.sh "$(DATA)" "$(OUT)/study" "$(PARTS)"

test: $(VENV)/.built $(OLDER)/.installed
	PYTHON=$(PY) DISTILFAST_TRANSFORMERS_4=$(OLDER) sh tests/run.sh

test-rust: $(VENV)/.built
	PYTHON=$(PY) sh tests/run.sh rust

test-python: $(VENV)/.built $(OLDER)/.installed
	PYTHON=$(PY) DISTILFAST_TRANSFORMERS_4=$(OLDER) sh tests/run.sh python

test-interpreter: $(VENV)/.built
	PYTHON=$(PY) sh tests/run.sh interpreter

mutants: $(VENV)/.built
	$(PY) tests/faults/run_mutants.py --json $(OUT)/mutants.json --survivors 5

lint: $(VENV)/.built
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --all-targets -- -D warnings
	$(VENV)/bin/zizmor --offline --no-progress .github/workflows
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	cd python && ../$(VENV)/bin/lint-imports ../pyproject.toml
	cd python && ../$(PY) -m mypy.stubtest --mypy-config-file ../tests/stubtest.ini distilfast._core

# Every file of examples/ whole, a few minutes each; `make test` runs them with few rows and steps.
examples: $(VENV)/.built
	rm -rf $(OUT)/examples
	for name in classifier sentence_encoder tagger reranker mlm; do \
	    $(PY) examples/$$name.py --output_dir $(OUT)/examples/$$name || exit 1; done

# The pages of docs/ and the reference that is made of docstrings; warnings are errors.
docs: $(VENV)/.built
	$(PY) -m mkdocs build --strict

# What is measured, on the machine at hand; JSON beside the printed tables.
bench: $(VENV)/.built
	for name in tokenize batches losses train; do $(PY) -m distilfast.bench $$name --json $(OUT)/bench-$$name.json --overwrite true || exit 1; done

# Every check that needs a CUDA GPU, with the python of the machine that has one: GPU tests, kernel bench, training bench.
gpu-check:
	PYTHON=$(or $(GPU_PYTHON),$(PY)) sh kernels/gpu_check.sh $(OUT)/gpu

wheel: $(VENV)/.built
	$(PY) -m maturin build --release --locked --out dist
	$(PY) .ci/inspect_wheel.py dist/*.whl

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt pip maturin
	touch $@

$(VENV)/.built: $(VENV)/.python pyproject.toml constraints.txt $(RUST_SOURCES)
	$(PY) -m pip install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

$(OLDER)/.installed: $(VENV)/.python
	$(PY) -m pip install --quiet --no-deps --upgrade --target $(OLDER) transformers==4.57.6 tokenizers==0.22.2 huggingface_hub==0.36.2
	touch $@

clean:
	rm -rf $(VENV) target dist $(OUT)
