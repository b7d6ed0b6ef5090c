"""Data sets as tuples of samples: join them, hold identities out, open their crops."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from model.data.images import UNLIMITED, decode
from model.errors import ImageError, OutOfMemory

SPLITS = ("train", "query", "gallery")
JUNK_PID = -1
DISTRACTOR_PID = 0

CROP_LIMITS = replace(UNLIMITED, max_pixels=178_956_970)
"""Limits of a crop for training or evaluation: the largest image that Pillow opens by default."""


class DatasetError(Exception):
    """A data set cannot be read or used; the message says why."""

    def __str__(self) -> str:
        """Return the message without the traceback that a DataLoader puts before a worker's error."""
        return super().__str__().rstrip().rpartition("DatasetError: ")[2]


@dataclass(frozen=True)
class Sample:
    """One crop.

    Attributes:
        path: the file.
        pid: the identity; -1 is junk, 0 a distractor.
        camid: the camera.
        trackid: the track, or -1 if it is not known.
    """

    path: Path
    pid: int
    camid: int
    trackid: int = -1


@dataclass(frozen=True)
class ReidDataset:
    """A training split, and a query and a gallery split of other people.

    Attributes:
        name: the name that cards and reports give.
        root: the folder from which `relative_path` counts.
        train: crops to train on.
        query: crops to search for.
        gallery: crops to search in.
        notes: warnings for the user in whole sentences, such as a number of images unlike the published one.

    Raises:
        DatasetError: junk or a distractor is in the training split or among the queries.
    """

    name: str
    root: Path
    train: tuple[Sample, ...]
    query: tuple[Sample, ...]
    gallery: tuple[Sample, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that each training and query sample has an identity."""
        for sample in self.train + self.query:
            if sample.pid <= DISTRACTOR_PID:
                raise DatasetError(f"{sample.path} is junk or a distractor: these are for the gallery alone")

    def split(self, name: str) -> tuple[Sample, ...]:
        """Return ``train``, ``query`` or ``gallery``."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All three splits, one after the other."""
        return self.train + self.query + self.gallery

    def relative_path(self, sample: Sample) -> str:
        """Return a sample's path from the root, with slashes; a file outside the root begins with ``..``."""
        return Path(os.path.relpath(sample.path, self.root)).as_posix()


def join(datasets: Sequence[ReidDataset]) -> ReidDataset:
    """Join data sets. Each identity, camera and track gets a new number that no other data set uses.

    Junk and distractors keep their pids. The root is the deepest folder that holds all roots.

    Raises:
        DatasetError: a crop is in two of the data sets.
    """
    if len(datasets) == 1:
        return datasets[0]
    _refuse_common_crops(datasets)
    moved: list[ReidDataset] = []
    for dataset, pids in zip(datasets, _number_identities(datasets), strict=True):
        before = [sample for other in moved for sample in other.samples]
        first_camid = 1 + max([-1, *(sample.camid for sample in before)])
        first_trackid = 1 + max([-1, *(sample.trackid for sample in before)])
        moved.append(_renumber(dataset, pids, first_camid, first_trackid))
    return ReidDataset(
        "+".join(dataset.name for dataset in moved),
        Path(os.path.commonpath([dataset.root.absolute() for dataset in moved])),
        tuple(sample for dataset in moved for sample in dataset.train),
        tuple(sample for dataset in moved for sample in dataset.query),
        tuple(sample for dataset in moved for sample in dataset.gallery),
        tuple(note for dataset in moved for note in dataset.notes),
    )


def _number_identities(datasets: Sequence[ReidDataset]) -> list[dict[int, int]]:
    """Map the pids of each data set to new ones, counted from 1; training identities come first.

    The training identities of the data sets are interleaved in proportion to their numbers. The last ones,
    which `hold_out` takes, are therefore the same share of each data set.
    """
    order = []
    for position, dataset in enumerate(datasets):
        trained = sorted({sample.pid for sample in dataset.train})
        others = {sample.pid for sample in dataset.samples if sample.pid > DISTRACTOR_PID} - set(trained)
        order += [(rank / len(trained), position, pid) for rank, pid in enumerate(trained, start=1)]
        order += [(math.inf, position, pid) for pid in others]
    numbers: list[dict[int, int]] = [{} for _ in datasets]
    for number, (_, position, pid) in enumerate(sorted(order), start=1):
        numbers[position][pid] = number
    return numbers


def _refuse_common_crops(datasets: Sequence[ReidDataset]) -> None:
    origin: dict[str, str] = {}
    for dataset in datasets:
        for path in {os.path.abspath(sample.path) for sample in dataset.samples}:
            if path in origin:
                raise DatasetError(f"{path} is in {origin[path]} and in {dataset.name}: give each set once")
            origin[path] = dataset.name


def _renumber(
    dataset: ReidDataset, pids: dict[int, int], first_camid: int, first_trackid: int
) -> ReidDataset:
    def renumber(sample: Sample) -> Sample:
        return replace(
            sample,
            pid=pids.get(sample.pid, sample.pid),
            camid=sample.camid + first_camid,
            trackid=sample.trackid + first_trackid if sample.trackid >= 0 else sample.trackid,
        )

    train, query, gallery = (tuple(renumber(sample) for sample in dataset.split(name)) for name in SPLITS)
    return replace(dataset, train=train, query=query, gallery=gallery)


def hold_out(dataset: ReidDataset, num_identities: int) -> tuple[ReidDataset, list[int]]:
    """Hold out the last identities of the training split, to choose a network without the test split.

    Returns:
        A data set with the remaining training split, one query for each held-out identity and camera, and all
        held-out crops as the gallery; and the positions of the remaining samples in the full training split.

    Raises:
        DatasetError: there are not more than ``num_identities`` identities.
    """
    pids = sorted({sample.pid for sample in dataset.train})
    if num_identities >= len(pids):
        raise DatasetError(f"{num_identities} identities cannot be held out of {len(pids)}")
    held_out = set(pids[len(pids) - num_identities :])
    kept = [i for i, sample in enumerate(dataset.train) if sample.pid not in held_out]
    gallery = tuple(sample for sample in dataset.train if sample.pid in held_out)
    query = {(sample.pid, sample.camid): sample for sample in reversed(gallery)}
    train = tuple(dataset.train[i] for i in kept)
    return replace(dataset, train=train, query=tuple(query.values()), gallery=gallery), kept


def open_crop(path: str | Path) -> Image.Image:
    """Return a crop as upright RGB, decoded as the service decodes it.

    Raises:
        DatasetError: the file is absent or not a JPEG, PNG, WebP or BMP image; the message names it.
    """
    try:
        image, _ = decode(Path(path).read_bytes(), CROP_LIMITS)
    except (OSError, ValueError, ImageError, OutOfMemory) as error:
        raise DatasetError(f"{path} cannot be read as an image: {error}") from error
    return image


def label_pids(samples: Iterable[Sample]) -> dict[int, int]:
    """Map each pid to a class label, counted from 0 in the order of the pids.

    >>> label_pids([Sample(Path("b"), 7, 1), Sample(Path("a"), 2, 1)])
    {2: 0, 7: 1}
    """
    return {pid: label for label, pid in enumerate(sorted({sample.pid for sample in samples}))}
