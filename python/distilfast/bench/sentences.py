"""`bench train --head embedding`: `SentenceTransformerTrainer` with `MSELoss` on the same models, texts and vectors."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import BatchSampler
from transformers import BertConfig, BertModel, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from .._core import InputError
from ..batches.sentences import SentenceBatches
from ..heads.embedding import Embedding
from ..models.adaptation import freeze
from ..models.pooling import Normalize, SentenceModules
from ..models.sentence_folder import SentenceSettings, write_sentence_folder
from ..models.student import create_student
from ..tokenizer import Tokenizer
from ..train.arguments import DistillationArguments
from ..train.step import DistillationStep
from ..train.trainer import DistillationTrainer
from .trainers import OPTIMISER, Contest

OURS: dict[str, Any] = {"alpha_ce": 0.0, "alpha_mlm": 0.0, "alpha_task": 0.0, "alpha_cos": 0.0, "alpha_embedding": 1.0}


def contest(
    config: BertConfig, tokenizer: Any, texts: Sequence[str], batch_tokens: int, max_length: int, bf16: bool
) -> Contest:
    """Ours and sentence-transformers', as it is and at its best settings.

    The teacher's vectors are given to both (drawn, of length 1), as its documentation says to do, and dropout is off in
    both, as our defaults have it.

    Of vectors of length 1, our loss (1 - cosine, and the squared distance) is 1.5 times the width times `MSELoss`.
    """
    try:
        import sentence_transformers as st
    except ImportError:
        raise InputError(
            "bench train --head embedding needs sentence-transformers: pip install 'distilfast[sentence]'"
        ) from None
    try:
        from sentence_transformers.sentence_transformer.losses import MSELoss
    except ImportError:  # before 6.0
        from sentence_transformers.losses import MSELoss  # type: ignore[no-redef]

    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    torch.manual_seed(0)
    student = create_student(freeze(BertModel(config, add_pooling_layer=False)), student_type="same")
    width = int(config.hidden_size)
    draws = np.random.default_rng(0).normal(size=(len(texts), width)).astype(np.float32)
    vectors = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    settings = SentenceSettings(max_length=max_length)
    own_tokenizer = Tokenizer.from_transformers(tokenizer)
    ids = own_tokenizer.encode_batch(pa.array(texts), max_length=max_length)
    rows_a_batch = max(1, batch_tokens * len(texts) // len(ids.values))

    def modules() -> SentenceModules:
        return SentenceModules(width, ("mean",), [Normalize()])

    def batches() -> SentenceBatches:
        return SentenceBatches(ids, own_tokenizer, batch_tokens, max_length, vectors=vectors)

    def ours(folder: Path) -> Trainer:
        args = DistillationArguments(
            str(folder), head="embedding", precision="bf16" if bf16 else "fp32", dropout=False, **OURS, **OPTIMISER
        )
        head = Embedding(modules(), settings, vectors=width)
        return DistillationTrainer(copy.deepcopy(student), None, args, batches(), head=head)

    def encoder() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            student.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_sentence_folder(Path(folder), modules(), settings)
            return st.SentenceTransformer(folder, device="cpu")  # its trainer moves it

    table = datasets.Dataset.from_dict({"sentence": list(texts), "label": vectors.tolist()})
    lengths = np.diff(ids.offsets.to_numpy()).tolist()

    def like_lengths(_: Any, batch_size: int, drop_last: bool, **__: Any) -> BatchSampler:
        return BatchSampler(LengthGroupedSampler(batch_size, lengths=lengths), batch_size, drop_last)

    def usual(folder: Path, best: bool) -> Trainer:
        model = encoder()
        args = st.SentenceTransformerTrainingArguments(
            str(folder), per_device_train_batch_size=rows_a_batch, bf16=best and bf16, **OPTIMISER
        )
        if best:
            args.batch_sampler = cast(Any, like_lengths)
        trainer: Trainer = st.SentenceTransformerTrainer(
            model=model, args=args, train_dataset=table, loss=MSELoss(model)
        )
        return trainer

    batch = batches()[0]
    step = DistillationStep(
        cast(Any, copy.deepcopy(student)).eval(),
        None,
        DistillationArguments("unused", report_to="none", **OURS).objective,
        head=Embedding(modules(), settings, vectors=width),
    )
    numbers = batch["row_numbers"].numpy()
    model = encoder()
    read = [texts[number] for number in numbers]
    features = dict(tokenizer(read, padding=True, truncation=True, max_length=max_length, return_tensors="pt"))
    with torch.no_grad():
        mine = float(cast(Any, step)(batch)["loss"]) / (1.5 * width)
        theirs = float(MSELoss(model)([features], torch.from_numpy(vectors[numbers])))
    return Contest(
        (mine, theirs),
        {
            "ours": ours,
            "SentenceTransformerTrainer": lambda folder: usual(folder, best=False),
            "SentenceTransformerTrainer, best settings": lambda folder: usual(folder, best=True),
        },
        {
            "batch": f"{batch_tokens} tokens a batch (theirs: {rows_a_batch} rows), at most {max_length} tokens",
            "sentence_transformers": st.__version__,
        },
    )
