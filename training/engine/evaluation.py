"""Embed a data set's query and gallery with a network, and evaluate the embeddings by its protocol."""

from collections import defaultdict
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from model.calibration import QUANTILES, PairScores
from model.embedder import Embedder, normalise_rows
from model.strangers import StrangerRates
from training.data.datasets import ReidDataset, Sample
from training.engine.embedding import embed_samples
from training.metrics.ranking import Ints, evaluate_embeddings, evaluate_rows
from training.metrics.reranking import rerank_embeddings
from training.metrics.verification import FALSE_MATCH_RATES, count_strangers, score_pairs
from training.weights.foreign import Floats

Pairs = dict[str, list[dict[str, float]]]
"""The keys are ``thresholds``, one for each of FALSE_MATCH_RATES, ``quantiles`` of the cosines, and the rates
of ``strangers``, unless there are too few people."""


class EmbeddedSplits(NamedTuple):
    """L2-normalised embeddings of a data set's test split, in the order of its samples.

    Attributes:
        query: float32 (Q, D).
        gallery: float32 (G, D).
    """

    query: Floats
    gallery: Floats


def embed_test(
    embedder: Embedder,
    dataset: ReidDataset,
    *,
    gallery_embedder: Embedder | None = None,
    with_flip: bool = False,
) -> EmbeddedSplits:
    """Embed the query and gallery split of a data set.

    Args:
        embedder: the network.
        dataset: the data set.
        gallery_embedder: the network that embeds the gallery; by default the same one.
        with_flip: average each crop's embedding with that of its mirror image.

    Raises:
        ValueError: the embeddings of the two networks have different sizes.
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
    """Join the queries of each identity and camera to one: the L2-normalised mean of their embeddings.

    Returns:
        Embeddings with queries (P, D), for P pairs of identity and camera; and the data set with the first
        query of each pair as its query split.
    """
    positions = defaultdict(list)
    for position, sample in enumerate(dataset.query):
        positions[sample.pid, sample.camid].append(position)
    means = np.stack([embeddings.query[pair].mean(axis=0) for pair in positions.values()])
    first = tuple(dataset.query[pair[0]] for pair in positions.values())
    return EmbeddedSplits(normalise_rows(means), embeddings.gallery), replace(dataset, query=first)


def evaluate(embedder: Embedder, dataset: ReidDataset) -> dict[str, float]:
    """Embed a data set and return its metrics in percent, by the names of `Metrics.percent`."""
    return evaluate_splits(embed_test(embedder, dataset), dataset)


def evaluate_splits(
    embeddings: EmbeddedSplits, dataset: ReidDataset, *, is_reranked: bool = False
) -> dict[str, float]:
    """Return the metrics of embeddings in percent, by the names of `Metrics.percent`.

    Args:
        embeddings: of the test split.
        dataset: the data set.
        is_reranked: re-rank the cosine distances by k-reciprocal neighbours first.
    """
    q_pids, q_camids = _labels(dataset.query)
    g_pids, g_camids = _labels(dataset.gallery)
    labels = q_pids, g_pids, q_camids, g_camids
    if is_reranked:
        metrics = evaluate_rows(rerank_embeddings(*embeddings), *labels)
    else:
        metrics = evaluate_embeddings(*embeddings, *labels)
    return {name: round(value, 2) for name, value in metrics.percent().items()}


def evaluate_pairs(embeddings: EmbeddedSplits, dataset: ReidDataset) -> Pairs:
    """Return false matches and misses by threshold on the cosine, as fractions, and quantiles of the cosines.

    Beside them are the rates of strangers, if there are enough people.

    Raises:
        ValueError: as for `score_test_pairs`.
    """
    scores = score_test_pairs(embeddings, dataset)
    thresholds = [{"target": rate, **asdict(scores.threshold(rate))} for rate in FALSE_MATCH_RATES]
    columns = scores.quantiles()
    quantiles = [
        {"quantile": quantile, "same": same, "different": different}
        for quantile, same, different in zip(QUANTILES, *columns.values(), strict=True)
    ]
    strangers = count_test_strangers(embeddings, dataset)
    counted = {"strangers": strangers.to_dict()["rates"]} if strangers else {}
    return {"thresholds": thresholds, "quantiles": quantiles, **counted}


def score_test_pairs(embeddings: EmbeddedSplits, dataset: ReidDataset) -> PairScores:
    """Count the cosines of pairs of query and gallery by `score_pairs`.

    Raises:
        ValueError: no pair shows one identity in two cameras, or no pair shows two identities.
    """
    (q_pids, q_camids), (g_pids, g_camids) = _labels(dataset.query), _labels(dataset.gallery)
    return score_pairs(*embeddings, q_pids, g_pids, q_camids, g_camids)


def verify_test(embeddings: EmbeddedSplits, dataset: ReidDataset) -> dict[str, Any]:
    """Return the field `verification` of a card; `model.verification.Verification` describes it.

    Raises:
        ValueError: as for `score_test_pairs`.
    """
    data = {"data": f"{dataset.name}, its test split"}
    strangers = count_test_strangers(embeddings, dataset)
    counted = {"strangers": strangers.to_dict() | data} if strangers else {}
    return score_test_pairs(embeddings, dataset).verification() | data | counted


def count_test_strangers(embeddings: EmbeddedSplits, dataset: ReidDataset) -> StrangerRates | None:
    """Count how often a stranger of the gallery scores as high, by `count_strangers`."""
    (q_pids, _), (g_pids, _) = _labels(dataset.query), _labels(dataset.gallery)
    return count_strangers(*embeddings, q_pids, g_pids)


def _labels(samples: tuple[Sample, ...]) -> tuple[Ints, Ints]:
    return np.array([sample.pid for sample in samples]), np.array([sample.camid for sample in samples])
