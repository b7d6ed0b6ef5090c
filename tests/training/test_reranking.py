"""Re-ranking against public code and against loops."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from references import DATA, loop_rerank
from training.metrics.ranking import evaluate_distmat, evaluate_rows
from training.metrics.reranking import rerank_distances, rerank_embeddings, rerank_memory_bytes

Matrix = NDArray[np.float32]


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_public_code_gives_the_same_distances_and_metrics(case: str) -> None:
    with np.load(DATA / "evaluation_vectors.npz") as vectors:
        reranked = rerank_distances(*(vectors[f"{case}/{name}"] for name in ("distmat", "qq", "gg")))
        np.testing.assert_allclose(reranked, vectors[f"{case}/reranked"], atol=1e-4)
        labels = [vectors[f"{case}/{name}"] for name in ("q_pids", "g_pids", "q_camids", "g_camids")]
        metrics = evaluate_distmat(reranked, *labels)
        np.testing.assert_allclose(metrics.cmc[:10], vectors[f"{case}/reranked_cmc"], atol=1e-6)
        assert metrics.mAP == pytest.approx(float(vectors[f"{case}/reranked_mAP"]), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_queries=st.integers(1, 6),
    num_gallery=st.integers(1, 25),
    k1=st.integers(1, 40),
    k2=st.integers(1, 40),
    lambda_=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_loops_give_the_same_distances(
    seed: int, num_queries: int, num_gallery: int, k1: int, k2: int, lambda_: float
) -> None:
    matrices = split(draw_distances(seed, num_queries + num_gallery), num_queries)
    reranked = rerank_distances(*matrices, k1, k2, lambda_)
    assert reranked.dtype == np.float32
    np.testing.assert_allclose(reranked, loop_rerank(*matrices, k1, k2, lambda_), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), k1=st.integers(1, 6), k2=st.integers(1, 6), largest=st.sampled_from([0, 1, 3])
)
def test_equal_distances_are_ranked_by_index(seed: int, k1: int, k2: int, largest: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, largest + 1, (20, 20))
    matrices = split(np.maximum(drawn, drawn.T).astype(np.float32), 4)
    expected = loop_rerank(*matrices, k1, k2, 0.3)
    np.testing.assert_allclose(rerank_distances(*matrices, k1, k2), expected, atol=1e-5)


def test_one_query_and_one_gallery_item_have_a_finite_distance() -> None:
    one = np.ones((1, 1))
    assert np.isfinite(rerank_distances(one, 0 * one, 0 * one)).all()
    assert rerank_distances(0 * one, 0 * one, 0 * one) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("qg", np.zeros((0, 4)), "one query and one gallery item or more"),
        ("qg", np.zeros(4), r"must be \(Q, G\)"),
        ("qq", np.zeros((3, 2)), r"qq is \(3, 2\); it must be \(3, 3\)"),
        ("gg", np.zeros((3, 3)), r"gg is \(3, 3\); it must be \(4, 4\)"),
        ("qg", np.full((3, 4), np.nan), "qg holds NaN"),
        ("gg", np.full((4, 4), np.inf), "gg holds NaN or infinity"),
        ("k1", 0, "k1 is 0"),
        ("k2", -1, "k2 is -1"),
        ("lambda_", 1.5, "lambda_ is 1.5"),
        ("lambda_", np.nan, "lambda_ is nan"),
    ],
)
def test_distances_that_cannot_be_reranked_are_refused(name: str, value: object, message: str) -> None:
    arguments = {"qg": np.zeros((3, 4)), "qq": np.zeros((3, 3)), "gg": np.zeros((4, 4)), name: value}
    with pytest.raises(ValueError, match=message):
        rerank_distances(**arguments)  # type: ignore[arg-type]  # some are wrong on purpose


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 1), (1000, 1000)])
def test_embeddings_are_reranked_as_their_euclidean_distances_are(k1: int, k2: int) -> None:
    rng = np.random.default_rng(1)
    queries, gallery = 3 * rng.standard_normal((60, 8)), rng.standard_normal((340, 8))
    unit = np.concatenate([queries, gallery])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distances = np.linalg.norm(unit[:, None] - unit, axis=2)
    expected = rerank_distances(*split(distances.astype(np.float32), 60), k1, k2)
    distances_of = rerank_embeddings(queries, gallery, k1, k2)
    np.testing.assert_allclose(distances_of(slice(0, 45)), expected[:45], atol=1e-4)
    np.testing.assert_allclose(distances_of(slice(45, None)), expected[45:], atol=1e-4)


def test_the_memory_is_printed_before_it_is_used_and_is_less_than_all_pairs_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    pids, camids = np.arange(6000) % 200, np.arange(6000) % 7
    rows = rng.standard_normal((200, 32))[pids] + rng.standard_normal((6000, 32))
    rows = rows.astype(np.float32)
    said = rerank_memory_bytes(1000, 5000, 32)
    tracemalloc.start()
    distances_of = rerank_embeddings(rows[:1000], rows[1000:])
    _, peak = tracemalloc.get_traced_memory()
    assert evaluate_rows(distances_of, pids[:1000], pids[1000:], camids[:1000], camids[1000:]).mAP > 0.5
    _, peak_judging = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"1,000 x 5,000: about {said / 2**30:.2f} GiB" in capsys.readouterr().err
    assert peak < 6000 * 6000 * 4
    assert peak_judging < said < 4 * peak_judging


@pytest.mark.parametrize(
    ("queries", "gallery", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 2)), r"not \(Q, D\) and \(G, D\)"),
        (np.ones((0, 3)), np.ones((4, 3)), "one of each is needed"),
        (np.zeros((2, 3)), np.ones((4, 3)), "has no cosine"),
        (np.full((2, 3), np.nan), np.ones((4, 3)), "has no cosine"),
    ],
)
def test_embeddings_that_cannot_be_reranked_are_refused(
    queries: Matrix, gallery: Matrix, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rerank_embeddings(queries, gallery)


def draw_distances(seed: int, num_items: int) -> Matrix:
    """Return the ranks of the distances between random points, so that no two are nearly equal."""
    points = np.random.default_rng(seed).standard_normal((num_items, 2))
    first, second = np.triu_indices(num_items, 1)
    distances = np.zeros((num_items, num_items), np.float32)
    order = np.linalg.norm(points[first] - points[second], axis=1).argsort().argsort()
    distances[first, second] = distances[second, first] = 1 + order
    return distances


def split(distances: Matrix, num_queries: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return the distances of queries to gallery, among queries and among the gallery."""
    q, g = slice(num_queries), slice(num_queries, None)
    return distances[q, g], distances[q, q], distances[g, g]
