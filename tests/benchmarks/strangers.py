"""Ask how often a search calls a stranger a match, on Market-1501's test people.

``PYTHONPATH=. python tests/benchmarks/strangers.py Market-1501-v15.09.15 [--cache FOLDER]`` embeds the test
split with the network that ships, or takes the embeddings of an earlier run from FOLDER. A gallery is a draw
of so many of the 750 people, with all of their crops. The queries of people in the gallery are searched
without the crops of the query's own camera, as the protocol of Market-1501 has it. The queries of all other
people are those of people who are not enrolled. The decision is the service's own: the rates of the card
times the people searched, and the default limits. Nothing is tuned here.

Intervals are of 95 %, by 2,000 resamples of the people who are searched for, each with all of their queries.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from model.calibration import BINS_A_UNIT, NUM_BINS
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.embedder import Embedder
from model.strangers import BestOfStrangers
from service.serving.strangers import Strangers, strangers_of
from service.serving.thresholds import SHIPPED
from service.settings import Settings
from training.data.readers import read_dataset
from training.engine.embedding import embed_samples

NUM_DRAWS, NUM_RESAMPLES, CHUNK = 40, 2_000, 256
MIN_PAIRS = 10
"""Fewer pairs of a query and a stranger give no figure."""

DRAWN, EXTRAPOLATED = (100, 700), (2_000, 5_000, 10_000, 100_000)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Searches:
    """The best cosine of each identity for each query, and of the query's own identity in other cameras.

    Attributes:
        best: (Q, I), where the query's own identity has -1.
        own: (Q,), -1 where the identity was seen in one camera alone.
        people: (Q,), the position of the query's identity among the I.
    """

    best: NDArray[np.float32]
    own: NDArray[np.float32]
    people: Ints


class Split(NamedTuple):
    """The embeddings (N, D), identities and cameras of a split."""

    rows: NDArray[np.float32]
    pids: Ints
    cameras: Ints


def embed(folder: Path, cache: Path | None) -> list[Split]:
    """Embed the queries and the gallery."""
    dataset = read_dataset([str(folder)], needs=("query", "gallery"))
    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT)
    found = []
    for name in ("query", "gallery"):
        samples = dataset.split(name)
        kept = cache / f"{checkpoint.version}-{name}.npy" if cache else None
        if kept and kept.exists():
            rows = np.load(kept)
        else:
            rows = embed_samples(samples, Embedder(checkpoint).embed, name)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, rows)
        pids, cameras = zip(*((one.pid, one.camid) for one in samples), strict=True)
        found.append(Split(rows, np.array(pids), np.array(cameras)))
    return found


def search(queries: Split, gallery: Split) -> Searches:
    """Search all test people for each query, without junk and distractors."""
    is_person = gallery.pids > 0
    rows, pids, cameras = gallery.rows[is_person], gallery.pids[is_person], gallery.cameras[is_person]
    by_person = BestOfStrangers(pids)
    people = np.searchsorted(by_person.identities_I, queries.pids)
    best = np.empty((len(queries.rows), len(by_person.identities_I)), np.float32)
    for start in range(0, len(queries.rows), CHUNK):
        some = slice(start, start + CHUNK)
        is_left_out = (queries.pids[some, None] == pids) & (queries.cameras[some, None] == cameras)
        best[some] = by_person.best(np.where(is_left_out, np.float32(-1), queries.rows[some] @ rows.T))
    own = best[np.arange(len(best)), people].copy()
    best[np.arange(len(best)), people] = -1
    return Searches(best, own, people)


def least_score(strangers: Strangers, num_people: int) -> float:
    """Return the lowest score of a match, or 2 if no score is one."""
    for place in np.arange(NUM_BINS) / BINS_A_UNIT - 1:
        if strangers.decide(strangers.expected(place, num_people)) == "match":
            return float(place)
    return 2.0


def interval(values_QR: Floats, people_Q: Ints, num_people: int) -> str:
    """Return the mean of the values that are not NaN, in percent, with its interval over people."""
    sums = np.bincount(people_Q, np.nansum(values_QR, axis=1), num_people)
    counts = np.bincount(people_Q, (~np.isnan(values_QR)).sum(axis=1), num_people)
    rng = np.random.default_rng(1)
    times = rng.multinomial(num_people, np.full(num_people, 1 / num_people), NUM_RESAMPLES)
    low, high = np.percentile((times @ sums) / (times @ counts), [2.5, 97.5])
    return f"{100 * sums.sum() / counts.sum():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def drawn_row(found: Searches, strangers: Strangers, num_people: int) -> list[str]:
    """Return a row of the table: searches of drawn galleries of so many people."""
    num_all = found.best.shape[1]
    limit = least_score(strangers, num_people)
    shape = (len(found.own), NUM_DRAWS)
    enrolled, right, stranger = (np.full(shape, np.nan) for _ in range(3))
    for draw in range(NUM_DRAWS):
        is_drawn = np.zeros(num_all, bool)
        is_drawn[np.random.default_rng(draw).permutation(num_all)[:num_people]] = True
        others_Q = found.best[:, is_drawn].max(axis=1)
        is_in = is_drawn[found.people] & (found.own > -1)
        is_out = ~is_drawn[found.people]
        is_match = np.maximum(others_Q, found.own) >= limit
        enrolled[is_in, draw] = is_match[is_in]
        is_shown = is_in & is_match
        right[is_shown, draw] = (found.own > others_Q)[is_shown]
        stranger[is_out, draw] = others_Q[is_out] >= limit
    columns = (stranger, enrolled, right)
    return [f"{num_people}", f"{limit:.3f}", *(interval(one, found.people, num_all) for one in columns)]


def extrapolated_row(found: Searches, strangers: Strangers, num_people: int) -> list[str]:
    """Return a row for more people than there are: the test people's rate at the limit, times the people.

    The expected number of strangers at the limit is the most that the share of searches with one can be. An
    enrolled person whose own crops reach the limit gets a match.
    """
    num_all = found.best.shape[1]
    limit = least_score(strangers, num_people)
    own = np.where(found.own > -1, found.own >= limit, np.nan)[:, None]
    rates = num_people * (found.best >= limit).sum(axis=1)[:, None] / (num_all - 1)
    most, least = (interval(one, found.people, num_all) for one in (rates, own))
    num_pairs = int((found.best >= limit).sum())
    known = f"at most {most}" if num_pairs >= MIN_PAIRS else "not known"
    shown = f"{limit:.3f}" if limit <= 1 else "no score"
    return [f"{num_people:,}, extrapolated", shown, f"{known}; {num_pairs} pairs", least, "-"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=None)
    options = parser.parse_args()
    found = search(*embed(options.folder, options.cache))
    card = json.loads(SHIPPED.read_text())[load_checkpoint(DEFAULT_CHECKPOINT).version]
    settings = Settings()
    strangers = strangers_of(card, None, settings.match_strangers, settings.unsure_strangers)
    table = Table("people", "match from", "not enrolled: a match, %", "enrolled: a match, %", "and right, %")
    for num_people in DRAWN:
        table.add_row(*drawn_row(found, strangers, num_people))
    for num_people in EXTRAPOLATED:
        table.add_row(*extrapolated_row(found, strangers, num_people))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
