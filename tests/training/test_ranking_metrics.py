"""Ranking metrics against public code, loops and hand-made examples."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from references import DATA, loop_metrics, loop_minp, loop_trapezoid_map
from training.metrics.ranking import evaluate_distmat, evaluate_embeddings

NAMES = ("distmat", "q_pids", "g_pids", "q_camids", "g_camids")


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_public_code_gives_the_same_metrics(case: str) -> None:
    with np.load(DATA / "evaluation_vectors.npz") as vectors:
        distmat, q_pids, g_pids, q_camids, g_camids = (vectors[f"{case}/{name}"] for name in NAMES)
        metrics = evaluate_distmat(distmat, q_pids, g_pids, q_camids, g_camids)
        np.testing.assert_allclose(metrics.cmc[:10], vectors[f"{case}/cmc"], atol=1e-6)
        assert metrics.mAP == pytest.approx(float(vectors[f"{case}/mAP"]), abs=1e-6)
        trapezoid = float(vectors[f"{case}/mAP_trapezoid"])
        assert metrics.mAP_trapezoid == pytest.approx(trapezoid, abs=1e-6)
        assert metrics.mINP == pytest.approx(float(vectors[f"{case}/mINP"]), abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_queries=st.integers(1, 8),
    num_gallery=st.integers(11, 60),
    num_distances=st.sampled_from([1, 3, 20, 10**6]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_loops_give_the_same_metrics_with_any_number_of_equal_distances(
    seed: int, num_queries: int, num_gallery: int, num_distances: int, dtype: type[np.floating]
) -> None:
    rng = np.random.default_rng(seed)
    distmat = rng.integers(0, num_distances, (num_queries, num_gallery)).astype(dtype)
    distmat[distmat == num_distances - 1] = np.inf
    q_pids, q_camids = rng.integers(1, 5, num_queries), rng.integers(1, 4, num_queries)
    g_pids, g_camids = rng.integers(-1, 5, num_gallery), rng.integers(1, 4, num_gallery)
    g_pids[0], g_camids[0] = q_pids[0], q_camids[0] + 1  # at least one query has a match
    labels = q_pids, g_pids, q_camids, g_camids
    metrics = evaluate_distmat(distmat, *labels)
    cmc, mean_ap = loop_metrics(distmat, *labels)
    np.testing.assert_allclose(metrics.cmc[:10], cmc)
    assert metrics.mAP == pytest.approx(mean_ap)
    assert metrics.mAP_trapezoid == pytest.approx(loop_trapezoid_map(distmat, *labels))
    assert metrics.mINP == pytest.approx(loop_minp(distmat, *labels))


def test_junk_and_the_same_camera_do_not_change_metrics() -> None:
    g_pids, g_camids = np.array([-1, 7, 3, 7]), np.array([2, 1, 2, 2])
    metrics = evaluate_distmat(
        np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([7]), g_pids, np.array([1]), g_camids
    )
    assert metrics.cmc[:2].tolist() == [0, 1]
    assert metrics.mAP == 0.5
    assert metrics.percent()["rank1"] == 0
    assert "rank5" not in metrics.percent()


def test_a_query_that_no_other_camera_saw_does_not_count() -> None:
    distmat = np.array([[0.1, 0.2], [0.1, 0.2]])
    metrics = evaluate_distmat(
        distmat, np.array([1, 2]), np.array([1, 2]), np.array([1, 1]), np.array([2, 1])
    )
    assert metrics.num_valid_queries == 1


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_embeddings_have_the_metrics_of_their_distances(chunk: int) -> None:
    queries, gallery, labels = people(40, 150)
    cosines = (queries @ gallery.T) / np.outer(
        np.linalg.norm(queries, axis=1), np.linalg.norm(gallery, axis=1)
    )
    expected = evaluate_distmat(1 - cosines, *labels)
    metrics = evaluate_embeddings(queries, gallery, *labels, chunk=chunk)
    assert 0.1 < expected.mAP < 0.9
    assert metrics.percent() == pytest.approx(expected.percent())
    np.testing.assert_allclose(metrics.cmc, expected.cmc)
    assert metrics.num_valid_queries == expected.num_valid_queries


def test_embeddings_are_evaluated_without_all_distances_in_memory() -> None:
    queries, gallery, labels = people(800, 2000)
    tracemalloc.start()
    evaluate_embeddings(queries, gallery, *labels, chunk=16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(queries) * len(gallery) * queries.itemsize / 4


def people(num_queries: int, num_gallery: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return embeddings of queries and gallery in clusters by identity, and their labels."""
    rng = np.random.default_rng(0)
    q_pids, g_pids = rng.integers(0, 20, num_queries), rng.integers(-1, 20, num_gallery)
    q_camids, g_camids = rng.integers(0, 3, num_queries), rng.integers(0, 3, num_gallery)
    centres = rng.standard_normal((21, 16))
    queries = (centres[q_pids] + 1.5 * rng.standard_normal((num_queries, 16))).astype(np.float32)
    gallery = (centres[g_pids] + 1.5 * rng.standard_normal((num_gallery, 16))).astype(np.float32)
    return queries, gallery, [q_pids, g_pids, q_camids, g_camids]


@pytest.mark.parametrize("bad", ["sizes", "labels", "lengths", "zero", "nan", "infinite", "chunk"])
def test_embeddings_that_cannot_be_evaluated_are_refused(bad: str) -> None:
    queries, gallery = np.ones((2, 3)), np.ones((4, 2 if bad == "lengths" else 3))
    labels = [np.arange(2), np.arange(4), np.zeros(2, int), np.ones(5 if bad == "labels" else 4, int)]
    if bad == "sizes":
        queries = np.ones((3, 3))
    if bad in ("zero", "nan", "infinite"):
        gallery[1] = {"zero": 0, "nan": np.nan, "infinite": np.inf}[bad]
    with pytest.raises(ValueError, match=r"labels are for|not \(Q, D\)|has no cosine|chunk is 0"):
        evaluate_embeddings(queries, gallery, *labels, chunk=0 if bad == "chunk" else 256)


@pytest.mark.parametrize("bad", ["shape", "nan", "no match"])
def test_distances_that_cannot_be_evaluated_are_refused(bad: str) -> None:
    distmat, pids, camids = np.zeros((2, 2)), np.array([1, 2]), np.array([1, 1])
    if bad == "shape":
        distmat = np.zeros((2, 3))
    if bad == "nan":
        distmat[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"labels are for|NaN|no query"):
        evaluate_distmat(distmat, pids, pids, camids, camids)
