"""One way of comparing for each head: its measures, what chance scores, and the share of the teacher's that is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from ..losses.definitions import IGNORED
from . import classification, questions, scores, tokens
from .kept import share_kept, warnings


class Comparison(ABC):
    """The held-out truth of one head. `main`: the measures whose share is told, the first of which stands for all."""

    main: ClassVar[tuple[str, ...]]
    titles: Mapping[str, str] = {}
    """What measures are called whose own name does not say enough."""
    unit: ClassVar[str] = "rows"

    @abstractmethod
    def metrics(self, outputs: Any, teacher: Any | None) -> dict[str, float]:
        """Every measure of a model's outputs; the teacher's own are compared with None."""

    @abstractmethod
    def scorer(self, metric: str, outputs: Any) -> Callable[[np.ndarray], float]:
        """One of the main measures as a function of which labelled units count."""

    @abstractmethod
    def chance(self, metric: str) -> float:
        """What a main measure is without looking at the text."""

    @abstractmethod
    def units(self) -> int:
        """How many units have a label."""

    def table(self, outputs: Any) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each label, where the head has labels."""
        return []


def compared(comparison: Comparison, outputs: dict[str, Any], teacher: str) -> dict[str, Any]:
    """The scores of every model as JSON-ready values, shares and warnings with them; outputs: by name."""
    units = comparison.units()
    models: dict[str, Any] = {}
    notes: list[str] = []
    chance = {metric: comparison.chance(metric) for metric in comparison.main} if units else {}
    for name, given in outputs.items():
        found: dict[str, Any] = {"metrics": comparison.metrics(given, None if name == teacher else outputs[teacher])}
        if units:
            found["labels"] = comparison.table(given)
        if units and name != teacher:
            found["kept"] = {}
            for metric in comparison.main:
                kept = share_kept(comparison.scorer(metric, given), comparison.scorer(metric, outputs[teacher]), units)
                found["kept"][metric] = {**vars(kept), "text": kept.text()}
                reference = models[teacher]["metrics"][metric]
                title = comparison.titles.get(metric, metric.replace("_", " "))
                notes += warnings(kept, name, teacher, reference, chance[metric], title)
        models[name] = found
    return {
        "main": list(comparison.main),
        "titles": dict(comparison.titles),
        "unit": comparison.unit,
        "units": units,
        "chance": chance,
        "models": models,
        "warnings": notes,
    }


def comparison_of(
    head: str, problem: str, values: Sequence[Any], names: Sequence[str], groups: np.ndarray | None = None
) -> Comparison:
    """The comparison with the labels of some rows, as `prepare.targets` reads them for a head.

    head: classification, tokens or questions; problem: `problem_type` of a classifier; names: of its classes; groups
    [rows]: of rows that are ranked."""
    if head == "tokens":
        return Tags([[names[one] if one >= 0 else None for one in row] for row in values], names)
    if head == "questions":
        return Answers([None if each is None else each["text"] for each in values])
    if problem == "multi_label_classification":
        rows = [[np.nan] * len(names) if row is None else row for row in values]
        return ManyLabels(np.array(rows, np.float64), names)
    if problem == "single_label_classification":
        return OneClass(np.array(values, np.int64), names)
    numbers = np.array(values, np.float64)
    if groups is not None:
        return Ranking(numbers if np.isfinite(numbers).any() else None, groups)
    return Numbers(numbers)


class OneClass(Comparison):
    """labels: class numbers [rows], `IGNORED` for none; names: of the classes. Outputs: logits [rows, classes]."""

    main = ("accuracy", "macro_f1")

    def __init__(self, labels: np.ndarray, names: Sequence[str]) -> None:
        self.labels, self.names = labels, names
        self.known = np.flatnonzero(labels != IGNORED)
        self.truth = labels[self.known]
        self.titles = {"f1": f"F1 of {names[1]}"} if len(names) == 2 else {}

    def units(self) -> int:
        return len(self.known)

    def metrics(self, outputs: np.ndarray, teacher: np.ndarray | None) -> dict[str, float]:
        return classification.single_label_metrics(outputs, self.labels, teacher)

    def scorer(self, metric: str, outputs: np.ndarray) -> Callable[[np.ndarray], float]:
        return self._score(metric, outputs.argmax(-1)[self.known])

    def _score(self, metric: str, said: np.ndarray) -> Callable[[np.ndarray], float]:
        if metric == "accuracy":
            right = (said == self.truth).astype(np.float64)
            return lambda rows: float(right[rows].mean())
        return lambda rows: macro_f1(self.truth[rows], said[rows], len(self.names))

    def chance(self, metric: str) -> float:
        most = np.bincount(self.truth, minlength=len(self.names)).argmax()
        return self._score(metric, np.full(len(self.truth), most))(np.arange(len(self.truth)))

    def table(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        return classification.label_table(outputs.argmax(-1), self.labels, self.names)


def macro_f1(truth: np.ndarray, said: np.ndarray, classes: int) -> float:
    """The mean F1 over the classes that occur in either, as scikit-learn has it and many times faster."""
    right = np.bincount(truth[truth == said], minlength=classes)
    both = np.bincount(truth, minlength=classes) + np.bincount(said, minlength=classes)
    return float(np.mean(2 * right[both > 0] / both[both > 0]))


class ManyLabels(Comparison):
    """labels: 0 or 1 [rows, classes], a row of nan or `IGNORED` for none. Outputs: logits [rows, classes]."""

    main = ("micro_f1", "macro_f1")

    def __init__(self, labels: np.ndarray, names: Sequence[str]) -> None:
        self.labels, self.names = labels, names
        self.known = np.flatnonzero((np.isfinite(labels) & (labels != IGNORED)).all(-1))
        self.truth = labels[self.known] > 0.5

    def units(self) -> int:
        return len(self.known)

    def metrics(self, outputs: np.ndarray, teacher: np.ndarray | None) -> dict[str, float]:
        return classification.multi_label_metrics(outputs, self.labels, teacher)

    def scorer(self, metric: str, outputs: np.ndarray) -> Callable[[np.ndarray], float]:
        return self._score(metric, outputs[self.known] > 0)

    def _score(self, metric: str, said: np.ndarray) -> Callable[[np.ndarray], float]:
        right, both = (self.truth & said).astype(np.int64), self.truth.astype(np.int64) + said

        def score(rows: np.ndarray) -> float:
            over, under = 2 * right[rows].sum(0), both[rows].sum(0)
            if metric == "micro_f1":
                return float(over.sum() / max(1, under.sum()))
            return float(np.mean(over / np.maximum(1, under)))

        return score

    def chance(self, metric: str) -> float:
        """The best of giving every row the most frequent label, the two most frequent, and so on."""
        frequent = np.argsort(-self.truth.sum(0), kind="stable")
        everything = np.arange(len(self.truth))
        found = []
        for number in range(len(self.names) + 1):
            said = np.zeros_like(self.truth)
            said[:, frequent[:number]] = True
            found.append(self._score(metric, said)(everything))
        return max(found)

    def table(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        return classification.label_table(
            (outputs[self.known] > 0).astype(np.int64), self.truth.astype(np.int64), self.names
        )


class Numbers(Comparison):
    """labels: numbers [rows], nan for none. Outputs: numbers [rows]."""

    main = ("spearman", "pearson")

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.known = np.flatnonzero(np.isfinite(labels))

    def units(self) -> int:
        return len(self.known)

    def metrics(self, outputs: np.ndarray, teacher: np.ndarray | None) -> dict[str, float]:
        return scores.regression_metrics(outputs, self.labels, teacher)

    def scorer(self, metric: str, outputs: np.ndarray) -> Callable[[np.ndarray], float]:
        function = stats.spearmanr if metric == "spearman" else stats.pearsonr
        truth, said = self.labels[self.known], outputs[self.known]
        return lambda rows: scores.correlation(function, truth[rows], said[rows])

    def chance(self, metric: str) -> float:
        return 0.0


class Ranking(Comparison):
    """labels: relevance [rows]; groups: which rows are ranked together [rows]. Outputs: scores [rows]."""

    main = ("ndcg@10", "mrr@10")
    unit = "groups"

    def __init__(self, labels: np.ndarray | None, groups: np.ndarray) -> None:
        self.labels, self.groups = labels, groups
        rows = scores.group_rows(groups)
        self.ranked = [] if labels is None else [here for here in rows if scores.chance_group_scores(labels[here])]

    def units(self) -> int:
        return len(self.ranked)

    def metrics(self, outputs: np.ndarray, teacher: np.ndarray | None) -> dict[str, float]:
        return scores.ranking_metrics(outputs, self.labels, self.groups, teacher)

    def scorer(self, metric: str, outputs: np.ndarray) -> Callable[[np.ndarray], float]:
        assert self.labels is not None
        found = [scores.group_scores(outputs[here], self.labels[here]) for here in self.ranked]
        values = np.array([each[self.main.index(metric)] for each in found if each is not None])
        return lambda groups: float(values[groups].mean())

    def chance(self, metric: str) -> float:
        assert self.labels is not None
        found = [scores.chance_group_scores(self.labels[here]) for here in self.ranked]
        return float(np.mean([each[self.main.index(metric)] for each in found if each is not None]))


class Tags(Comparison):
    """labels: the tag of each word of each sentence, None where a word has none, and then it is left out as
    `transformers` does; names: of all tags. Outputs: tags likewise, "" where a word was cut off or has no token, which
    is wrong wherever there was a tag to find."""

    unit = "sentences"

    def __init__(self, labels: Sequence[Sequence[str | None]], names: Sequence[str]) -> None:
        self.names = names
        self.entities = tokens.has_entities(names)
        self.main = ("f1", "accuracy") if self.entities else ("accuracy", "macro_f1")  # type: ignore[misc]
        self.titles = {"f1": "F1 of entities"}
        self.places = [[place for place, tag in enumerate(tags) if tag is not None] for tags in labels]
        self.known = [i for i, places in enumerate(self.places) if places]
        self.truth = [[str(labels[i][place]) for place in self.places[i]] for i in self.known]

    def units(self) -> int:
        return len(self.known)

    def _said(self, outputs: Sequence[Sequence[str]]) -> list[list[str]]:
        return [self._whole([outputs[i][place] for place in self.places[i]]) for i in self.known]

    def _whole(self, tags: Sequence[str]) -> list[str]:
        return [tag or "O" for tag in tags] if self.entities else list(tags)

    def metrics(self, outputs: Sequence[Sequence[str]], teacher: Sequence[Sequence[str]] | None) -> dict[str, float]:
        found = tokens.token_metrics(self._said(outputs), self.truth, None, self.entities) if self.known else {}
        if teacher is not None:
            theirs = [self._whole(tags) for tags in teacher]
            ours = [self._whole(tags) for tags in outputs]
            found["agreement"] = tokens.token_metrics(ours, None, theirs)["agreement"]
        return found

    def scorer(self, metric: str, outputs: Sequence[Sequence[str]]) -> Callable[[np.ndarray], float]:
        return self._score(metric, self._said(outputs))

    def _score(self, metric: str, said: list[list[str]]) -> Callable[[np.ndarray], float]:
        if metric == "f1":
            counts = tokens.entity_counts(said, self.truth)
            return lambda rows: tokens.entity_scores(counts[rows].sum(0))["f1"]
        numbers = {tag: i for i, tag in enumerate(sorted({tag for tags in (*said, *self.truth) for tag in tags}))}
        pairs = [
            np.array([[numbers[tag], numbers[other]] for tag, other in zip(true, got, strict=True)]).reshape(-1, 2)
            for true, got in zip(self.truth, said, strict=True)
        ]
        right = np.array([(pair[:, 0] == pair[:, 1]).sum() for pair in pairs])
        words = np.array([len(pair) for pair in pairs])
        if metric == "accuracy":
            return lambda rows: float(right[rows].sum() / max(1, words[rows].sum()))
        # Right, true and predicted words of each tag in each sentence, so that a draw is a sum.
        size = len(numbers)
        found = np.zeros((len(pairs), 2, size), np.int64)
        for i, pair in enumerate(pairs):
            found[i, 0] = np.bincount(pair[pair[:, 0] == pair[:, 1], 0], minlength=size)
            found[i, 1] = np.bincount(pair.ravel(), minlength=size)

        def score(rows: np.ndarray) -> float:
            hit, both = np.einsum("i,ikj->kj", np.bincount(rows, minlength=len(pairs)), found)
            return float(np.mean(2 * hit[both > 0] / both[both > 0]))

        return score

    def chance(self, metric: str) -> float:
        flat = [tag for tags in self.truth for tag in tags]
        most = max(sorted(set(flat)), key=flat.count)
        said = [[most] * len(tags) for tags in self.truth]
        return self._score(metric, said)(np.arange(len(self.truth)))

    def table(self, outputs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        said = self._said(outputs)
        if self.entities:
            return tokens.entity_table(said, self.truth)
        number = {name: i for i, name in enumerate(self.names)}
        truth = np.array([number[tag] for tags in self.truth for tag in tags])
        given = np.array([number.get(tag, len(number)) for tags in said for tag in tags])
        return classification.label_table(given, truth, self.names)


class Answers(Comparison):
    """answers: the right ones of each question, empty where the passage holds none, None where nobody said. Outputs:
    one answer a question."""

    main = ("f1", "exact_match")
    titles: Mapping[str, str] = {"f1": "F1 of the answers' words"}
    unit = "questions"

    def __init__(self, answers: Sequence[Sequence[str] | None]) -> None:
        self.known = [i for i, truths in enumerate(answers) if truths is not None]
        self.truth = [list(truths) for truths in answers if truths is not None]

    def units(self) -> int:
        return len(self.known)

    def metrics(self, outputs: Sequence[str], teacher: Sequence[str] | None) -> dict[str, float]:
        found = questions.question_metrics([outputs[i] for i in self.known], self.truth) if self.known else {}
        return found | questions.question_metrics(outputs, None, teacher)

    def scorer(self, metric: str, outputs: Sequence[str]) -> Callable[[np.ndarray], float]:
        column = 0 if metric == "exact_match" else 1
        values = questions.answer_scores([outputs[i] for i in self.known], self.truth)[:, column]
        return lambda rows: float(values[rows].mean())

    def chance(self, metric: str) -> float:
        """Saying of every question that the passage holds no answer."""
        return self.scorer(metric, dict.fromkeys(self.known, ""))(np.arange(len(self.known)))  # type: ignore[arg-type]
