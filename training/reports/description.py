"""Describe a data set before training: counts, sizes, and crops that are in train and in test."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.data.datasets import (
    DISTRACTOR_PID,
    JUNK_PID,
    SPLITS,
    DatasetError,
    ReidDataset,
    Sample,
    open_crop,
)

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of some numbers."""

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        return f"{self.min:g} - {self.median:g} - {self.max:g}"


@dataclass(frozen=True)
class SplitReport:
    """The contents of a split; sizes are in pixels. Junk and distractors are no identities."""

    images: int
    identities: int
    identities_in_two_cameras: int
    cameras: int
    tracks: int
    distractors: int
    junk: int
    images_per_identity: Spread | None
    width: Spread | None
    height: Spread | None


@dataclass(frozen=True)
class Report:
    """The contents of a data set.

    Attributes:
        name: of the data set.
        root: its folder.
        notes: its warnings.
        splits: by the name of the split.
        in_train_and_test: pairs of paths of a training image and a query or gallery image with the same
            pixels, by the SHA-256 of the decoded RGB. A copy that was compressed again has other pixels.
        unreadable: an error message for each image that cannot be decoded.
    """

    name: str
    root: str
    notes: tuple[str, ...]
    splits: dict[str, SplitReport]
    in_train_and_test: list[tuple[str, str]]
    unreadable: list[str]


@dataclass(frozen=True)
class _Decoded:
    width: int
    height: int
    digest: bytes


def describe_dataset(dataset: ReidDataset) -> Report:
    """Decode every image of a data set and count what is in it."""
    paths = sorted({sample.path for sample in dataset.samples})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(
            track(
                pool.map(_decode, paths),
                total=len(paths),
                description="images",
                console=Console(stderr=True),
            )
        )
    decoded = {
        path: result for path, result in zip(paths, results, strict=True) if isinstance(result, _Decoded)
    }
    test_paths = {
        decoded[sample.path].digest: sample.path
        for sample in reversed(dataset.query + dataset.gallery)
        if sample.path in decoded
    }
    pairs = [
        (str(sample.path), str(test_paths[decoded[sample.path].digest]))
        for sample in dataset.train
        if sample.path in decoded and decoded[sample.path].digest in test_paths
    ]
    return Report(
        dataset.name,
        str(dataset.root),
        dataset.notes,
        {name: _describe_split(dataset.split(name), decoded) for name in SPLITS},
        pairs,
        [result for result in results if isinstance(result, str)],
    )


def _decode(path: Path) -> _Decoded | str:
    """Return size and digest of an image, or an error message."""
    try:
        image = open_crop(path)
    except DatasetError as error:
        return str(error)
    pixels = f"{image.width} {image.height} ".encode() + image.tobytes()
    return _Decoded(image.width, image.height, hashlib.sha256(pixels).digest())


def _describe_split(samples: Sequence[Sample], decoded: dict[Path, _Decoded]) -> SplitReport:
    images = Counter(sample.pid for sample in samples)
    num_distractors, num_junk = images.pop(DISTRACTOR_PID, 0), images.pop(JUNK_PID, 0)
    cameras = defaultdict(set)
    for sample in samples:
        cameras[sample.pid].add(sample.camid)
    readable = [decoded[sample.path] for sample in samples if sample.path in decoded]
    return SplitReport(
        images=len(samples),
        identities=len(images),
        identities_in_two_cameras=sum(len(cameras[pid]) > 1 for pid in images),
        cameras=len({sample.camid for sample in samples}),
        tracks=len({sample.trackid for sample in samples} - {-1}),
        distractors=num_distractors,
        junk=num_junk,
        images_per_identity=_spread(list(images.values())),
        width=_spread([image.width for image in readable]),
        height=_spread([image.height for image in readable]),
    )


def _spread(numbers: Sequence[int]) -> Spread | None:
    return Spread(min(numbers), median(numbers), max(numbers)) if numbers else None


def print_report(report: Report) -> None:
    """Print a report as a table; ranges are minimum - median - maximum."""
    table = Table("", *report.splits, title=f"{report.name} in {report.root}")
    for name in SplitReport.__dataclass_fields__:
        values = [getattr(split, name) for split in report.splits.values()]
        cells = [f"{value:,}" if isinstance(value, int) else str(value or "-") for value in values]
        table.add_row(name.replace("_", " "), *cells)
    console = Console()
    console.print(table)
    console.print(f"{len(report.in_train_and_test):,} training images are in query or gallery too")
    for pair in report.in_train_and_test[:MAX_EXAMPLES]:
        console.print("  {} = {}".format(*pair), markup=False, soft_wrap=True)
