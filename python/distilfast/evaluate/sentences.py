"""Sentence encoders as they are: how near their students order sentences, neighbours and documents.

Beside the students stand two controls for each depth: the teacher's layers as they are cut, and random weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy import stats
from torch import nn

from .._core import InputError
from ..metrics.kept import share_kept
from ..metrics.markdown import number, table
from ..metrics.retrieval import ranked, retrieval_scores
from ..metrics.scores import correlation
from ..metrics.vectors import NEIGHBOURS, pair_similarities, sts_metrics, uniformity, vector_metrics
from ..models.families import layers_of
from ..models.sentence import SentenceEncoder, load_sentence_encoder, student_modules
from ..models.sentence_folder import Role
from ..models.student import create_student
from ..prepare.sentence_data import read_collection, read_pairs
from ..prepare.text import read_texts
from .options import EvaluateOptions

FEW_SENTENCES = 10_000


def sentence_report(
    paths: Mapping[str, str], teacher: str, options: EvaluateOptions, on: torch.device
) -> dict[str, Any]:
    """{"sts": {file: ...}, "neighbours": {file: ...}, "retrieval": {folder: ...}} of what `options` name.

    paths: models by name. Raises `InputError` for models that are no sentence encoders and for data that is not read.
    """
    pairs = {Path(file).stem: read_pairs(file, options.text_column, options.label_column) for file in options.sts_file}
    collections = {Path(folder).name: read_collection(folder) for folder in options.retrieval_dir}
    texts = list(dict.fromkeys(read_texts(options.sentences, options.max_lines))) if options.sentences else []
    if options.sentences and len(texts) < NEIGHBOURS + 2:
        raise InputError(f"--sentences: {len(texts)} different texts; {NEIGHBOURS} neighbours of each need more")
    encoders = {
        name: load_sentence_encoder(path, _of_bare(path, options.pooling), _of_bare(path, options.normalize))
        for name, path in paths.items()
    }
    if (most := options.max_length) is not None:
        encoders = {name: encoder.reading_at_most(most) for name, encoder in encoders.items()}
    if options.controls:
        whole = encoders[teacher]
        for name, model in control_models({name: each.model for name, each in encoders.items()}, teacher).items():
            encoders[name] = replace(whole, model=model, modules=student_modules(model, whole.modules))
    for encoder in encoders.values():
        cast(nn.Module, encoder.model).to(on)
    found: dict[str, Any] = {}
    if pairs:
        found["sts"] = {name: _sts(encoders, teacher, each) for name, each in pairs.items()}
        for name, each in pairs.items():
            found["sts"][name]["notes"] += cut_notes(encoders, list(paths), {None: [*each.first, *each.second]})
    if texts:
        part = _neighbours(encoders, teacher, texts, list(paths))
        part["notes"] += cut_notes(encoders, list(paths), {None: texts})
        found["neighbours"] = {Path(options.sentences[0]).stem: part}
    if collections:
        found["retrieval"] = {name: _retrieval(encoders, teacher, each) for name, each in collections.items()}
        for name, found_in in collections.items():
            read: dict[Role | None, list[str]] = {"query": found_in.queries, "document": found_in.documents}
            found["retrieval"][name]["notes"] += cut_notes(encoders, list(paths), read)
    return found


def cut_notes(
    encoders: Mapping[str, SentenceEncoder], judged: Sequence[str], read: Mapping[Role | None, Sequence[str]]
) -> list[str]:
    """How many texts each of the `judged` models cuts, a line each, or one where it is the same for all.

    read: the texts by what they are, which says the prompt before them.
    """
    lines = {}
    for name in judged:
        encoder = encoders[name]
        cut = total = 0
        for role, texts in read.items():
            cut += encoder.count_cut(texts, None if role is None else encoder.settings.prompt_name(role))
            total += len(texts)
        if cut:
            lines[name] = (
                f"{cut:,} of {total:,} texts are longer than the {encoder.longest} tokens that are read, and cut"
            )
    if len(lines) == len(judged) and len(set(lines.values())) == 1:
        return [lines[judged[0]]]
    return [f"{name}: {line}" for name, line in lines.items()]


def _of_bare(path: str, value: Any) -> Any:
    """What is said of pooling is meant for the bare encoders among the models."""
    return None if (Path(path) / "modules.json").is_file() else value


def control_models(models: Mapping[str, Any], teacher: str) -> dict[str, Any]:
    """For each depth of a student, up to the teacher's: the teacher cut to it, untrained, and random weights."""
    whole = models[teacher]
    depths = {len(layers_of(model)) for name, model in models.items() if name != teacher}
    return {
        f"{kind}, {depth} layers": create_student(whole, depth, cast(Any, init)).train(False)
        for depth in sorted(depths)
        if depth <= len(layers_of(whole))
        for kind, init in (("cut", "teacher"), ("random weights", "random"))
    }


def with_share(
    scores: Mapping[str, dict[str, float]],
    scorer: Callable[[str], Callable[[np.ndarray], float]],
    teacher: str,
    units: int,
) -> dict[str, dict[str, Any]]:
    """`scores` of the models, each but the teacher's with the share of the teacher's that it keeps ("kept")."""
    found: dict[str, dict[str, Any]] = {}
    for name, each in scores.items():
        found[name] = dict(each)
        if name != teacher:
            share = share_kept(scorer(name), scorer(teacher), units)
            found[name]["kept"] = {**vars(share), "text": share.text()}
    return found


def fingerprint(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _sts(encoders: Mapping[str, SentenceEncoder], teacher: str, pairs: Any) -> dict[str, Any]:
    similarities = {}
    for name, encoder in encoders.items():
        both = encoder.encode([*pairs.first, *pairs.second])
        similarities[name] = pair_similarities(both[: len(pairs.first)], both[len(pairs.first) :])
    scores = {name: sts_metrics(each, pairs.scores, similarities[teacher]) for name, each in similarities.items()}

    def scorer(name: str) -> Callable[[np.ndarray], float]:
        return lambda rows: correlation(stats.spearmanr, pairs.scores[rows], similarities[name][rows])

    return {
        "pairs": len(pairs.first),
        "notes": pairs.notes,
        "fingerprint": fingerprint(pairs.first, pairs.second, pairs.scores.tolist()),
        "models": with_share(scores, scorer, teacher, len(pairs.first)),
    }


def _neighbours(
    encoders: Mapping[str, SentenceEncoder], teacher: str, texts: Sequence[str], judged: Sequence[str]
) -> dict[str, Any]:
    """`judged`: the models of which it is said where they have collapsed; controls have a right to."""
    vectors = {name: encoder.encode(texts) for name, encoder in encoders.items()}
    scores = {name: vector_metrics(each, vectors[teacher]) for name, each in vectors.items()}
    notes = []
    if len(texts) < FEW_SENTENCES:
        notes.append(
            f"{len(texts):,} different sentences are few: below some {FEW_SENTENCES:,} neighbours are far apart"
        )
    # Unrelated sentences of a good encoder are nearly at right angles: this is about -4 * (1 - cosine).
    if uniformity(vectors[teacher]) > -1:
        notes.append(
            "the teacher's own vectors of these sentences lie close together: they are unlike what it was made for, or "
            "much alike"
        )
    for name, each in scores.items():
        if name in judged and each["uniformity"] > scores[teacher]["uniformity"] + 1:
            notes.append(f"{name} draws all sentences together (uniformity {each['uniformity']:.2f}): it has collapsed")
    return {"sentences": len(texts), "fingerprint": fingerprint(texts), "models": scores, "notes": notes}


def _retrieval(encoders: Mapping[str, SentenceEncoder], teacher: str, data: Any) -> dict[str, Any]:
    per_query = {}
    for name, encoder in encoders.items():
        settings = encoder.settings
        queries = encoder.encode(data.queries, settings.prompt_name("query"))
        documents = encoder.encode(data.documents, settings.prompt_name("document"))
        per_query[name] = retrieval_scores(ranked(queries, documents, settings.similarity), data.relevant)

    scores = {name: {key: float(each.mean()) for key, each in found.items()} for name, found in per_query.items()}

    def scorer(name: str) -> Callable[[np.ndarray], float]:
        return lambda rows: float(per_query[name]["ndcg@10"][rows].mean())

    return {
        "documents": len(data.documents),
        "queries": len(data.queries),
        "notes": data.notes,
        "fingerprint": fingerprint(data.documents, data.queries, data.relevant),
        "models": with_share(scores, scorer, teacher, len(data.queries)),
    }


def sentences_markdown(report: Mapping[str, Any]) -> list[str]:
    """The sections of a report of `sentence_report`."""
    sections = []
    for name, part in report.get("sts", {}).items():
        rows = [
            [
                model,
                *(f"{each['spearman']:.4f}", _share(each), f"{each['teacher_spearman']:.4f}", f"{each['pearson']:.4f}"),
            ]
            for model, each in part["models"].items()
        ]
        sections += [f"## {name}: {part['pairs']:,} pairs, Spearman correlation of cosines"]
        sections.append(table(["model", "with people", "kept", "with the teacher", "Pearson, people"], rows))
        sections += _listed(part)
    for name, part in report.get("neighbours", {}).items():
        rows = [
            [
                model,
                f"{each[f'neighbours@{NEIGHBOURS}']:.3f}",
                f"{each['teacher_cosine']:.4f}" if "teacher_cosine" in each else "-",
                number(each["uniformity"], 2),
                number(each["norm"], 2),
            ]
            for model, each in part["models"].items()
        ]
        sections += [f"## {name}: neighbours of {part['sentences']:,} sentences"]
        header = ["model", f"the teacher's among {NEIGHBOURS}", "cosine to the teacher", "uniformity", "norm"]
        sections.append(table(header, rows))
        sections += _listed(part)
    for name, part in report.get("retrieval", {}).items():
        names = {
            "ndcg@10": "nDCG@10",
            "recall@100": "recall@100",
            "mrr@10": "MRR@10",
            "kendall": "Kendall to the teacher",
        }
        shown = [key for key in names if any(key in each for each in part["models"].values())]
        rows = [
            [model, *(f"{each[key]:.4f}" if key in each else "" for key in shown), _share(each)]
            for model, each in part["models"].items()
        ]
        sections += [f"## {name}: {part['queries']:,} queries in {part['documents']:,} documents"]
        sections.append(table(["model", *(names[key] for key in shown), "kept of nDCG"], rows))
        sections += _listed(part)
    return sections


def _listed(part: Mapping[str, Any]) -> list[str]:
    """What is to be said of a part of the report."""
    return ["\n".join(f"- {note}" for note in part["notes"])] if part.get("notes") else []


def _share(scores: Mapping[str, Any]) -> str:
    return str(scores["kept"]["text"]) if "kept" in scores else ""
