"""What the file names of a folder of crops say: which files are crops, who is on them, which camera saw them.

`reid enroll` and the Market-1501 benchmark read folders by the same rules; nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MARKET1501_NAME = re.compile(r"(?P<pid>-1|\d{4}|[1-9]\d{4,})_c(?P<camera>\d+)s\d+_\d+_\d+")
JUNK_PID = "-1"
DISTRACTOR_PID = "0000"


class Layout(StrEnum):
    """How a folder says who is on a crop."""

    flat = "flat"
    folders = "folders"
    market1501 = "market1501"


@dataclass(frozen=True)
class Crop:
    """One image file and what is known about it before it is enrolled."""

    path: Path
    identity_id: str | None = None
    camera_id: str | None = None

    def metadata(self) -> dict[str, str]:
        """Give the fields that are known, as `POST /gallery` takes them.

        >>> Crop(Path("a.jpg"), camera_id="3").metadata()
        {'camera_id': '3'}
        """
        known = {"identity_id": self.identity_id, "camera_id": self.camera_id}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Findings:
    """The crops found, in the order in which they are enrolled, and what was left aside."""

    crops: tuple[Crop, ...]
    num_junk: int
    num_not_images: int
    misnamed: tuple[Path, ...]


def parse_market1501_name(name: str) -> tuple[str, str] | None:
    """Read the identity and the camera from a Market-1501 file name; None if the name is not of that form.

    >>> parse_market1501_name("0002_c1s1_000451_03.jpg")
    ('0002', '1')
    >>> parse_market1501_name("-1_c3s2_001351_04.jpg")
    ('-1', '3')
    >>> parse_market1501_name("10000_c1s1_000451_00.jpg")
    ('10000', '1')
    >>> parse_market1501_name("holiday.jpg") is None
    True
    """
    match = MARKET1501_NAME.match(name)
    return (match["pid"], match["camera"]) if match else None


def find_crops(paths: Iterable[Path], layout: Layout) -> Findings:
    """Look through files and folders (with their subfolders) for crops, in sorted order, each file once.

    In a folder only files with the suffix of an image count, and hidden ones do not; a file that is named
    itself is always taken. In the layout `market1501` the identity -1 is junk and left out, and 0000 (a
    distractor, not one person) gets no identity, so that the service gives each its own.
    """
    crops: list[Crop] = []
    misnamed: list[Path] = []
    num_junk = num_not_images = 0
    for path, is_named_itself in dict(_walk(paths)).items():
        if not is_named_itself and path.suffix.lower() not in IMAGE_SUFFIXES:
            num_not_images += 1
        elif layout is not Layout.market1501:
            identity_id = path.absolute().parent.name if layout is Layout.folders else None
            crops.append(Crop(path, identity_id))
        elif (parsed := parse_market1501_name(path.name)) is None:
            misnamed.append(path)
        elif parsed[0] == JUNK_PID:
            num_junk += 1
        else:
            pid, camera_id = parsed
            crops.append(Crop(path, None if pid == DISTRACTOR_PID else pid, camera_id))
    return Findings(tuple(crops), num_junk, num_not_images, tuple(misnamed))


def _walk(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        for found in sorted(path.rglob("*")):
            is_hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
            if found.is_file() and not is_hidden:
                yield found, False
