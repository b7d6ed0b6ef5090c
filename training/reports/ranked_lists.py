"""Pictures of ranked lists: a query and the first items of the gallery, with matches in green.

Shape legend: Q queries, G gallery, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.retrieval import LabelledGallery, Split, average_precision, rank_matches
from training.data.datasets import JUNK_PID, ReidDataset, Sample, open_crop
from training.engine.evaluation import EmbeddedSplits

NUM_SHOWN = 10
GREEN, RED, GREY = (22, 163, 74), (220, 38, 38), (107, 114, 128)
CROP_WIDTH, CROP_HEIGHT = 72, 144
FRAME, GAP, QUERY_GAP, MARGIN, CAPTION = 4, 8, 28, 12, 30
QUERY_CHUNK = 256


@dataclass(frozen=True)
class RankedList:
    """One query and the first items of its ranked gallery.

    Attributes:
        query: the query.
        average_precision: step-wise AP of the whole list, 0-1.
        first_match: the rank of the first match, from 1.
        gallery: the first items that count for the query, at most `NUM_SHOWN`.
        scores: the cosine of each shown item.
        is_match: whether each shown item is of the query's identity.
    """

    query: Sample
    average_precision: float
    first_match: int
    gallery: tuple[Sample, ...]
    scores: tuple[float, ...]
    is_match: tuple[bool, ...]


class Ranking:
    """Ranks the gallery for each query by the retrieval protocol; never holds all Q x G distances.

    Junk, and the query's identity in the query's own camera, do not count.
    """

    def __init__(self, dataset: ReidDataset, embeddings: EmbeddedSplits) -> None:
        self._dataset, self._embeddings = dataset, embeddings
        pids = np.array([sample.pid for sample in dataset.gallery])
        camids = np.array([sample.camid for sample in dataset.gallery])
        self._labels = LabelledGallery(pids, camids, junk=JUNK_PID)

    def average_precisions(self) -> NDArray[np.float64]:
        """Return the step-wise AP of each query, float64 (Q,), 0-1; NaN for a query without a match."""
        queries_QD, gallery_GD = self._embeddings
        precisions: list[float] = []
        for start in range(0, len(queries_QD), QUERY_CHUNK):
            rows = slice(start, start + QUERY_CHUNK)
            distances = 1 - queries_QD[rows] @ gallery_GD.T
            splits = map(self._split, self._dataset.query[rows])
            precisions += map(average_precision, map(rank_matches, distances, splits))
        return np.array(precisions)

    def rank(self, position: int) -> RankedList:
        """Return the ranked list of the query at a position. The query must have a match."""
        query = self._dataset.query[position]
        distances_G = 1 - self._embeddings.query[position] @ self._embeddings.gallery.T
        split = self._split(query)
        ranks = rank_matches(distances_G, split)
        counts_G = np.ones(len(distances_G), bool)
        counts_G[split.excluded] = False
        order = np.argsort(distances_G, kind="stable")
        shown = order[counts_G[order]][:NUM_SHOWN].tolist()
        return RankedList(
            query,
            average_precision(ranks),
            int(ranks[0]) + 1,
            tuple(self._dataset.gallery[item] for item in shown),
            tuple(1 - float(distances_G[item]) for item in shown),
            tuple(self._dataset.gallery[item].pid == query.pid for item in shown),
        )

    def _split(self, query: Sample) -> Split:
        return self._labels.split(query.pid, query.camid)


def choose_queries(
    precisions_Q: NDArray[np.float64], *, seed: int, count: int = 10
) -> tuple[list[int], list[int]]:
    """Choose the queries of the lowest AP, worst first, and as many random queries.

    Args:
        precisions_Q: float64 (Q,), the AP of each query; queries with NaN are not chosen.
        seed: of the random choice.
        count: queries of each kind; fewer if there are not enough.

    Returns:
        The positions of the worst and of the random queries.

    >>> choose_queries(np.array([0.5, np.nan, 0.1, 0.3]), seed=0, count=2)[0]
    [2, 3]
    """
    valid = np.flatnonzero(~np.isnan(precisions_Q))
    worst = valid[np.argsort(precisions_Q[valid], kind="stable")[:count]]
    random = np.random.default_rng(seed).choice(valid, min(count, len(valid)), replace=False)
    return worst.tolist(), random.tolist()


def draw_ranked_lists(lists: Sequence[RankedList]) -> Image.Image:
    """Draw one row for each query: its crop in a grey frame, then matches in green and other items in red."""
    row_height = CROP_HEIGHT + 2 * FRAME + CAPTION + GAP
    width = 2 * MARGIN + (NUM_SHOWN + 1) * (CROP_WIDTH + 2 * FRAME + GAP) + QUERY_GAP - GAP
    image = Image.new("RGB", (width, 2 * MARGIN + len(lists) * row_height - GAP), "white")
    for row, ranked in enumerate(lists):
        top = MARGIN + row * row_height
        query = (
            f"query {ranked.query.pid}",
            f"cam {ranked.query.camid}  AP {100 * ranked.average_precision:.0f} %",
        )
        _draw_crop(image, MARGIN, top, ranked.query, GREY, *query)
        shown = zip(ranked.gallery, ranked.scores, ranked.is_match, strict=True)
        for column, (sample, score, is_match) in enumerate(shown, start=1):
            left = MARGIN + QUERY_GAP + column * (CROP_WIDTH + 2 * FRAME + GAP)
            title = f"{column}  {_name(sample)}"
            _draw_crop(
                image,
                left,
                top,
                sample,
                GREEN if is_match else RED,
                title,
                f"cam {sample.camid}  {score:.2f}",
            )
    return image


def _name(sample: Sample) -> str:
    return f"id {sample.pid}" if sample.pid > 0 else "distractor"


def _draw_crop(
    image: Image.Image,
    left: int,
    top: int,
    sample: Sample,
    color: tuple[int, int, int],
    title: str,
    details: str,
) -> None:
    draw = ImageDraw.Draw(image)
    bottom = top + CROP_HEIGHT + 2 * FRAME
    draw.rectangle((left, top, left + CROP_WIDTH + 2 * FRAME - 1, bottom - 1), fill=color)
    crop = open_crop(sample.path).resize((CROP_WIDTH, CROP_HEIGHT), Image.Resampling.BICUBIC)
    image.paste(crop, (left + FRAME, top + FRAME))
    font = ImageFont.load_default(12)
    draw.text((left, bottom + 2), title, fill=color, font=font)
    draw.text((left, bottom + 16), details, fill=GREY, font=font)
