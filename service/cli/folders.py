"""What the file names of a folder of crops say: which files are crops, who is on them, which camera saw them.

`reid enroll` and the Market-1501 benchmark read folders by the same rules; nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.data.folders import IMAGE_SUFFIXES
from model.data.market import DISTRACTOR_PID, JUNK_PID, parse_market1501_name
from service.client import CropFile
from service.uploads.layouts import Layout


@dataclass(frozen=True)
class Findings:
    """The crops found, in the order in which they are enrolled, and what was left aside."""

    crops: tuple[CropFile, ...]
    num_junk: int
    num_not_images: int
    misnamed: tuple[Path, ...]


def find_crops(paths: Iterable[Path], layout: Layout) -> Findings:
    """Look through files and folders (with their subfolders) for crops, in sorted order, each file once.

    In a folder only files with the suffix of an image count, and hidden ones do not; a file that is named
    itself is always taken. In the layout `market1501` the identity -1 is junk and left out, and 0000 (a
    distractor, not one person) gets no identity, so that the service gives each its own.
    """
    crops: list[CropFile] = []
    misnamed: list[Path] = []
    num_junk = num_not_images = 0
    for path, is_named_itself in dict(_walk(paths)).items():
        if not is_named_itself and path.suffix.lower() not in IMAGE_SUFFIXES:
            num_not_images += 1
        elif layout is not Layout.market1501:
            identity_id = path.absolute().parent.name if layout is Layout.folders else None
            crops.append(CropFile(path, identity_id))
        elif (parsed := parse_market1501_name(path.name)) is None:
            misnamed.append(path)
        elif parsed[0] == JUNK_PID:
            num_junk += 1
        else:
            pid, camera_id = parsed
            crops.append(CropFile(path, None if pid == DISTRACTOR_PID else pid, camera_id))
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
