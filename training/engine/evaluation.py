"""Embed a data set's query and gallery with a network, and evaluate the embeddings by its protocol."""

from collections import defaultdict
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np

from model.calibration import QUANTILES, PairScores
from model.embedder import Embedder, normalise_rows
from training.data.datasets import ReidDataset, Sample
from training.engine.embedding import embed_samples
from training.metrics.ranking import Ints, evaluate_embeddings, evaluate_rows
from training.metrics.reranking import rerank_embeddings
from training.metrics.verification import FALSE_MATCH_RATES, score_pairs
from training.weights.foreign import Floats

Pairs = dict[str, list[dict[str, float]]]
"""Thresholds for FALSE_MATCH_RATES, and quantiles of the cosines; rates are fractions."""


class EmbeddedSplits(NamedTuple):
    """L2-normalised embeddings of a data set's query and gallery, in their order: float32 (Q, D), (G, D)."""

    query: Floats
    gallery: Floats


def embed_test(
    embedder: Embedder,
    dataset: ReidDataset,
    *,
    gallery_embedder: Embedder | None = None,
    with_flip: bool = False,
) -> EmbeddedSplits:
    """Embed query and gallery; ``with_flip`` averages each crop with its mirror image.

    ``gallery_embedder`` embeds the gallery where it is another network that was there before.

    Raises:
        ValueError: the two embed in different sizes.
    """
    gallery_embedder = gallery_embedder or embedder
    if gallery_embedder.embedding_size != embedder.embedding_size:
        sizes = f"{embedder.embedding_size} and {gallery_embedder.embedding_size}"
        raise ValueError(f"embeddings of {sizes} dimensions cannot be compared")
    return EmbeddedSplits(
        embed_samples(dataset.query, embedder.embed, "query", with_flip=with_flip),
        embed_samples(dataset.gallery, gallery_embedder.embed, "gallery", with_flip=with_flip),
    )


def pool_queries(embeddings: EmbeddedSplits, dataset: ReidDataset) -> tuple[EmbeddedSplits, ReidDataset]:
    """Make one query of all that show an identity in a camera: the L2-normalised mean of their embeddings.

    Returns:
        The embeddings, with queries (P, D) for P pairs of pid and camid; and the data set, with the first
        crop of each pair as its query split.
    """
    positions = defaultdict(list)
    for position, sample in enumerate(dataset.query):
        positions[sample.pid, sample.camid].append(position)
    means = np.stack([embeddings.query[pair].mean(axis=0) for pair in positions.values()])
    first = tuple(dataset.query[pair[0]] for pair in positions.values())
    return EmbeddedSplits(normalise_rows(means), embeddings.gallery), replace(dataset, query=first)


def evaluate(embedder: Embedder, dataset: ReidDataset) -> dict[str, float]:
    """Return the metrics of query against gallery by cosine distance, in percent (see Metrics.percent)."""
    return judge(embed_test(embedder, dataset), dataset)


def judge(embeddings: EmbeddedSplits, dataset: ReidDataset, *, is_reranked: bool = False) -> dict[str, float]:
    """Return the metrics of embeddings, in percent, as ``evaluate`` does, or of their re-ranked distances."""
    q_pids, q_camids = _labels(dataset.query)
    g_pids, g_camids = _labels(dataset.gallery)
    labels = q_pids, g_pids, q_camids, g_camids
    if is_reranked:
        metrics = evaluate_rows(rerank_embeddings(*embeddings), *labels)
    else:
        metrics = evaluate_embeddings(*embeddings, *labels)
    return {name: round(value, 2) for name, value in metrics.percent().items()}


def judge_pairs(embeddings: EmbeddedSplits, dataset: ReidDataset) -> Pairs:
    """Return what thresholds on the cosine let through and miss, and how the cosines lie."""
    scores = score_test_pairs(embeddings, dataset)
    thresholds = [{"target": rate, **asdict(scores.threshold(rate))} for rate in FALSE_MATCH_RATES]
    columns = scores.quantiles()
    quantiles = [
        {"quantile": quantile, "same": same, "different": different}
        for quantile, same, different in zip(QUANTILES, *columns.values(), strict=True)
    ]
    return {"thresholds": thresholds, "quantiles": quantiles}


def score_test_pairs(embeddings: EmbeddedSplits, dataset: ReidDataset) -> PairScores:
    """Count the cosines of query and gallery, of one identity in two cameras, and of two identities.

    Raises:
        ValueError: one of the two kinds has no pair.
    """
    (q_pids, q_camids), (g_pids, g_camids) = _labels(dataset.query), _labels(dataset.gallery)
    return score_pairs(*embeddings, q_pids, g_pids, q_camids, g_camids)


def _labels(samples: tuple[Sample, ...]) -> tuple[Ints, Ints]:
    return np.array([sample.pid for sample in samples]), np.array([sample.camid for sample in samples])
