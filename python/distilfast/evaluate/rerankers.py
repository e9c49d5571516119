"""Rerankers as they are, on a collection: how well they order the documents that a search by words finds.

Beside the students stand two controls for each depth, as beside sentence encoders.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._core import InputError
from ..batches.encode import encode_texts
from ..heads.choice import choose_head
from ..metrics.retrieval import CUTOFF, candidates, retrieval_scores
from ..metrics.scores import ranking_metrics
from ..models.families import longest_row
from ..models.head import head_of, head_of_class
from ..models.load import load_config, load_model
from ..models.sentence_folder import transformer_folder
from ..prepare.sentence_data import Collection, read_collection
from ..tokenizer import load_transformers_tokenizer
from .finished import said_of
from .options import LONGEST, EvaluateOptions
from .sentences import control_models, fingerprint, with_share

CANDIDATES = 30
"""Documents of a query that are put in order."""


def scores_pairs(path: str) -> bool:
    """Whether the model in `path` is a classifier of sequences, and no encoder."""
    classes = load_config(transformer_folder(path)).architectures or []
    return any(head_of_class(name) == "classification" for name in classes)


def is_reranker(model: Any) -> bool:
    """Whether a model gives one score of a text or pair."""
    return head_of(model) == "classification" and int(model.config.num_labels) == 1


def reranker_report(
    paths: Mapping[str, str], teacher: str, options: EvaluateOptions, on: torch.device
) -> dict[str, Any]:
    """{"retrieval": {folder: ...}}: nDCG@10 and MRR@10 of each model's order of each query's `CANDIDATES`, the share of
    the teacher's that is kept, and Kendall's tau to the teacher's order.

    Raises `InputError` for models that are no rerankers, and for what rerankers cannot be scored on.
    """
    for flag in ("sts_file", "sentences"):
        if getattr(options, flag):
            raise InputError(
                f"--{flag} is for sentence encoders, and {teacher} scores pairs; give --retrieval_dir, or pairs with "
                "--validation_file and --group_column"
            )
    models = {name: load_model(path) for name, path in paths.items()}
    for name, model in models.items():
        if not is_reranker(model):
            raise InputError(f"{name} is a {type(model).__name__}, which gives no score of a pair, as {teacher} does")
    tokenizers = {name: load_transformers_tokenizer(path) for name, path in paths.items()}
    if options.controls:
        controls = control_models(models, teacher)
        models |= controls
        tokenizers |= dict.fromkeys(controls, tokenizers[teacher])
    found = {}
    for folder in options.retrieval_dir:
        collection = read_collection(folder)
        shown = candidates(collection.queries, collection.documents, CANDIDATES)
        outputs, notes = {}, []
        for name, model in models.items():
            outputs[name], cut = _scores(model, tokenizers[name], collection, shown, options.max_length or LONGEST, on)
            notes += [f"{name}: {count:,} {what}" for what, count in cut.items() if name in paths]
        found[Path(folder).name] = _ranked(collection, shown, outputs, teacher, notes)
    return {"retrieval": found}


def _scores(
    model: Any, tokenizer: Any, collection: Collection, shown: np.ndarray, max_length: int, on: torch.device
) -> tuple[np.ndarray, Mapping[str, int]]:
    """[queries, candidates]: what the model says of each query with each of its candidates; and what was cut."""
    first = [query for query in collection.queries for _ in range(shown.shape[1])]
    second = [collection.documents[document] for document in shown.ravel()]
    longest = longest_row(model, tokenizer=tokenizer) or max_length
    rows = encode_texts(tokenizer, first, second, max_length=min(max_length, longest))
    said = said_of(model, choose_head(model, "classification"), tokenizer, rows, on, progress=sys.stderr.isatty())
    return said.student[:, 0].reshape(shown.shape), rows.counts


def _ranked(
    collection: Collection, shown: np.ndarray, outputs: Mapping[str, np.ndarray], teacher: str, notes: Sequence[str]
) -> dict[str, Any]:
    order = {name: np.argsort(-scores, axis=1, kind="stable") for name, scores in outputs.items()}
    measured = (f"ndcg@{CUTOFF}", f"mrr@{CUTOFF}")
    per_query = {
        name: retrieval_scores(np.take_along_axis(shown, each, axis=1), collection.relevant)
        for name, each in order.items()
    }
    groups = np.repeat(np.arange(len(shown)), shown.shape[1])
    scores: dict[str, dict[str, float]] = {}
    for name, found in per_query.items():
        scores[name] = {key: float(found[key].mean()) for key in measured}
        if name != teacher:
            both = ranking_metrics(outputs[name].ravel(), None, groups, outputs[teacher].ravel())
            scores[name] |= {key: both[key] for key in ("kendall",) if key in both}

    def scorer(name: str) -> Callable[[np.ndarray], float]:
        return lambda rows: float(per_query[name][measured[0]][rows].mean())

    by_words = retrieval_scores(shown, collection.relevant)
    reached = np.mean([len(set(row) & set(relevant)) / len(relevant) for row, relevant in _pairs(shown, collection)])
    note = (
        f"each model orders the {shown.shape[1]} documents whose words are nearest to a query's (TF-IDF); of a query's "
        f"relevant documents {reached:.1%} are among them, the mean over queries, and in the order of the words "
        f"nDCG@10 is {by_words[measured[0]].mean():.4f}"
    )
    return {
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "notes": [*collection.notes, note, *notes],
        "fingerprint": fingerprint(collection.documents, collection.queries, collection.relevant, "reranked"),
        "models": with_share(scores, scorer, teacher, len(collection.queries)),
    }


def _pairs(shown: np.ndarray, collection: Collection) -> Any:
    return zip(shown.tolist(), collection.relevant, strict=True)
