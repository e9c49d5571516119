"""What a search finds, against sums by hand and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from distilfast import InputError
from distilfast.metrics.retrieval import ranked, retrieval_scores, search
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score


def test_by_hand() -> None:
    found = np.array([[2, 0, 1, 3], [3, 2, 1, 0]])
    scores = retrieval_scores(found, [{0: 1.0, 1: 2.0}, {3: 1.0, 7: 1.0, 2: 0.0}])
    first = (1 / np.log2(3) + 2 / np.log2(4)) / (2 / np.log2(2) + 1 / np.log2(3))
    second = 1.0 / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(scores["ndcg@10"], [first, second])
    np.testing.assert_allclose(scores["recall@100"], [1, 0.5])
    np.testing.assert_allclose(scores["mrr@10"], [0.5, 1])


@given(st.integers(11, 40), st.integers(0, 1000))
def test_ndcg_is_that_of_scikit_learn(documents: int, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    queries, vectors = drawn.standard_normal((3, 5)), drawn.standard_normal((documents, 5))
    gains = drawn.integers(0, 3, (3, documents))
    gains[:, 0] = 1
    relevant = [{document: float(gain) for document, gain in enumerate(row) if gain} for row in gains]
    scores = retrieval_scores(search(queries, vectors), relevant)["ndcg@10"]
    expected = [ndcg_score(row[None], each[None] @ vectors.T, k=10) for row, each in zip(gains, queries, strict=True)]
    np.testing.assert_allclose(scores, expected)


def test_search_finds_the_nearest_and_refuses_nothing() -> None:
    vectors = np.eye(4)
    np.testing.assert_array_equal(search(vectors[[2, 1]], vectors, most=2), [[2, 0], [1, 0]])
    with pytest.raises(InputError, match="no document"):
        search(vectors, vectors[:0])
    with pytest.raises(InputError, match="query 0 has no relevant document"):
        retrieval_scores(np.array([[0]]), [{0: 0.0}])


@pytest.mark.parametrize("similarity", ["cosine", "cos_sim", "dot", "dot_score", "euclidean", None])
def test_the_nearest_are_those_of_the_encoders_own_similarity(similarity: str | None) -> None:
    draw = np.random.default_rng(0)
    queries = draw.standard_normal((5, 6)).astype(np.float32)
    documents = (draw.standard_normal((40, 6)) * draw.uniform(0.2, 3, (40, 1))).astype(np.float32)
    products = queries @ documents.T
    lengths = np.linalg.norm(documents, axis=1)
    wanted = {
        "dot": products,
        "dot_score": products,
        "euclidean": -np.linalg.norm(queries[:, None] - documents, axis=2),
    }
    expected = np.argsort(-wanted.get(str(similarity), products / lengths), axis=1)
    assert ranked(queries, documents, similarity).tolist() == expected.tolist()


def test_a_similarity_that_is_not_computed_is_refused() -> None:
    with pytest.raises(InputError, match="'manhattan', which is not computed here"):
        ranked(np.ones((1, 2)), np.ones((1, 2)), "manhattan")
