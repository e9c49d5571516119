"""Scores of a search: what is found for each query among documents, against the documents known to be relevant.

nDCG with the judgements as gains, as trec_eval's ndcg_cut (Järvelin and Kekäläinen, "Cumulated gain-based evaluation of
IR techniques", 2002); recall at 100; the reciprocal rank of the first relevant document among ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .._core import InputError
from .vectors import unit

CUTOFF, RECALL_CUTOFF = 10, 100
MEASURES = (f"ndcg@{CUTOFF}", f"recall@{RECALL_CUTOFF}", f"mrr@{CUTOFF}")
BLOCK = 256
"""Queries whose similarities to all documents are held at once."""


def ranked(queries: np.ndarray, documents: np.ndarray, similarity: str | None = None) -> np.ndarray:
    """What `search` finds by the vectors' cosines, or by `similarity` as sentence-transformers calls it: inner products
    ("dot") or distances ("euclidean").

    Raises `InputError` for another one.
    """
    if similarity == "euclidean":  # |q - d|^2 = |q|^2 - 2 (q d - |d|^2 / 2), and |q| moves no document
        half = (documents.astype(np.float64) ** 2).sum(1, keepdims=True) / 2
        queries = np.concatenate([queries, np.ones((len(queries), 1))], 1)
        documents = np.concatenate([documents, -half], 1)
    elif similarity in (None, "cosine", "cos_sim"):
        queries, documents = unit(queries).astype(np.float32), unit(documents).astype(np.float32)
    elif similarity not in ("dot", "dot_score"):
        raise InputError(
            f"the similarity_fn_name of a sentence encoder is {similarity!r}, which is not computed here; search is by "
            "cosine, dot or euclidean"
        )
    return search(queries, documents)


def search_means(
    vectors: np.ndarray, relevant: Sequence[Mapping[int, float]], similarity: str | None = None
) -> dict[str, float]:
    """The means of `retrieval_scores` over queries, of `vectors` [queries + documents, width], queries first."""
    count = len(relevant)
    scores = retrieval_scores(ranked(vectors[:count], vectors[count:], similarity), relevant)
    return {name: float(each.mean()) for name, each in scores.items()}


def search(queries: np.ndarray, documents: np.ndarray, most: int = RECALL_CUTOFF) -> np.ndarray:
    """[queries, most] numbers of the documents with the highest inner products, best first, lower numbers first among
    equals. Raises `InputError` for no documents."""
    if len(documents) == 0:
        raise InputError("there is no document to search in")
    most = min(most, len(documents))
    found = np.empty((len(queries), most), np.int64)
    for start in range(0, len(queries), BLOCK):
        products = queries[start : start + BLOCK] @ documents.T
        found[start : start + BLOCK] = np.argsort(-products, axis=1, kind="stable")[:, :most]
    return found


def candidates(queries: Sequence[str], documents: Sequence[str], most: int) -> np.ndarray:
    """[queries, most] numbers of the documents nearest to each query by TF-IDF (logarithmic counts, cosine), best
    first: what a reranker is given to put in order."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    try:
        of_documents = words.fit_transform(documents)
    except ValueError:
        raise InputError("the documents have no words to search by") from None
    of_queries = words.transform(queries)
    most = min(most, len(documents))
    found = np.empty((len(queries), most), np.int64)
    for start in range(0, len(queries), BLOCK):
        products = (of_queries[start : start + BLOCK] @ of_documents.T).toarray()
        found[start : start + BLOCK] = np.argsort(-products, axis=1, kind="stable")[:, :most]
    return found


def retrieval_scores(found: np.ndarray, relevant: Sequence[Mapping[int, float]]) -> dict[str, np.ndarray]:
    """{"ndcg@10", "recall@100", "mrr@10"}, each [queries].

    found: as `search` gives it; relevant: for each query {document: judgement}, judgements of 0 and below are not
    relevant. Raises `InputError` for a query without a relevant document.
    """
    scores = {name: np.zeros(len(found)) for name in MEASURES}
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    for query, judged in enumerate(relevant):
        gains = {document: gain for document, gain in judged.items() if gain > 0}
        if not gains:
            raise InputError(f"query {query} has no relevant document, so nothing can be found for it; leave it out")
        ranked = [gains.get(int(document), 0.0) for document in found[query]]
        best = sorted(gains.values(), reverse=True)[:CUTOFF]
        gained = np.asarray(ranked[:CUTOFF])
        scores[f"ndcg@{CUTOFF}"][query] = gained @ discounts[: len(gained)] / (best @ discounts[: len(best)])
        hits = sum(gain > 0 for gain in ranked[:RECALL_CUTOFF])
        scores[f"recall@{RECALL_CUTOFF}"][query] = hits / len(gains)
        first = next((rank for rank, gain in enumerate(ranked[:CUTOFF], 1) if gain > 0), None)
        scores[f"mrr@{CUTOFF}"][query] = 0.0 if first is None else 1 / first
    return scores
