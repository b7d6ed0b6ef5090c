"""Data sets as lists of samples."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

JUNK_PID = -1
DISTRACTOR_PID = 0
_MARKET1501_NAME = re.compile(r"(-1|\d{4})_c(\d)s\d_\d{6}_\d{2}\.jpg(?:\.jpg)?")


class DatasetError(Exception):
    """A folder does not hold the data set that it should; the message says what is missing."""


@dataclass(frozen=True)
class Sample:
    """One crop: its file, identity (pid; -1 junk, 0 distractor) and camera (camid)."""

    path: Path
    pid: int
    camid: int


@dataclass(frozen=True)
class ReidDataset:
    """A training split, and a query and a gallery split of other people."""

    name: str
    root: Path
    train: tuple[Sample, ...]
    query: tuple[Sample, ...]
    gallery: tuple[Sample, ...]

    def split(self, name: str) -> tuple[Sample, ...]:
        """Return ``train``, ``query`` or ``gallery``."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]


def read_market1501(root: Path) -> ReidDataset:
    """Read Market-1501 (Zheng et al., ICCV 2015) from its extracted folder, or the folder above it.

    Raises:
        DatasetError: a folder is absent or empty, or a .jpg in it has another name than the data set's.
    """
    inner = root / "Market-1501-v15.09.15"
    root = inner if inner.is_dir() else root
    folders = ("bounding_box_train", "query", "bounding_box_test")
    train, query, gallery = (_read_folder(root / name) for name in folders)
    train = tuple(sample for sample in train if sample.pid > DISTRACTOR_PID)
    return ReidDataset("market1501", root, train, query, gallery)


def hold_out(dataset: ReidDataset, num_identities: int) -> tuple[ReidDataset, list[int]]:
    """Keep the last identities of the training split apart, to choose by without looking at the test split.

    Returns:
        The held-out people as a data set with the remaining training split: one query an identity and camera,
        and all their crops as the gallery; and the positions of the remaining samples in the full split.

    Raises:
        DatasetError: there are not that many identities.
    """
    pids = sorted({sample.pid for sample in dataset.train})
    if num_identities >= len(pids):
        raise DatasetError(f"{num_identities} identities cannot be held out of {len(pids)}")
    apart = set(pids[len(pids) - num_identities :])
    kept = [i for i, sample in enumerate(dataset.train) if sample.pid not in apart]
    gallery = tuple(sample for sample in dataset.train if sample.pid in apart)
    query = {(sample.pid, sample.camid): sample for sample in reversed(gallery)}
    train = tuple(dataset.train[i] for i in kept)
    return replace(dataset, train=train, query=tuple(query.values()), gallery=gallery), kept


def _read_folder(folder: Path) -> tuple[Sample, ...]:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not there; give the folder that holds bounding_box_train, query, ..."
        )
    samples = []
    for path in sorted(folder.glob("*.jpg")):
        parts = parse_market1501_name(path.name)
        if parts is None:
            raise DatasetError(f"{path} has no Market-1501 name such as 0002_c1s1_000451_03.jpg")
        samples.append(Sample(path, *parts))
    if not samples:
        raise DatasetError(f"{folder} holds no .jpg")
    return tuple(samples)


def parse_market1501_name(name: str) -> tuple[int, int] | None:
    """Return (pid, camid) of a file name.

    >>> parse_market1501_name("-1_c3s1_000451_03.jpg"), parse_market1501_name("cat.jpg")
    ((-1, 3), None)
    """
    match = _MARKET1501_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def open_crop(path: Path) -> Image.Image:
    """Return a crop as RGB.

    Raises:
        DatasetError: the file is absent or not an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path} cannot be read as an image: {error}") from error


def label_pids(samples: Iterable[Sample]) -> dict[int, int]:
    """Number the identities from 0 in the order of their pid.

    >>> label_pids([Sample(Path("b"), 7, 1), Sample(Path("a"), 2, 1)])
    {2: 0, 7: 1}
    """
    return {pid: label for label, pid in enumerate(sorted({sample.pid for sample in samples}))}
