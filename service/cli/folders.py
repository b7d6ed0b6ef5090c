"""Find the crops in folders, and read their identities and cameras from the names of files and folders.

`reid enroll` and the Market-1501 benchmark use the same rules. No file is opened here.
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
    """The crops of some folders.

    Attributes:
        crops: in the order in which they are enrolled.
        num_junk: how many crops Market-1501 marks as junk.
        num_not_images: how many files do not have the suffix of an image.
        misnamed: files whose names do not have the form that the layout `market1501` expects.
    """

    crops: tuple[CropFile, ...]
    num_junk: int
    num_not_images: int
    misnamed: tuple[Path, ...]


def find_crops(paths: Iterable[Path], layout: Layout) -> Findings:
    """Find the crops among files and in folders and their subfolders, each crop once.

    A file in `paths` is always a crop. In a folder, only files with the suffix of an image are crops, and
    hidden files are ignored. The layout `market1501` has two special identities. Crops of identity -1 are
    junk and left out. Crops of identity 0000 are distractors, which show different people. Distractors
    get no identity here, so the service makes a new identity for each.
    """
    crops: list[CropFile] = []
    misnamed: list[Path] = []
    num_junk = num_not_images = 0
    for path, is_given in dict(_walk(paths)).items():
        if not is_given and path.suffix.lower() not in IMAGE_SUFFIXES:
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
    """Yield each file with whether it is one of `paths` itself; the files of a folder are sorted."""
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        for found in sorted(path.rglob("*")):
            is_hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
            if found.is_file() and not is_hidden:
                yield found, False
