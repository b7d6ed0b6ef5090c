"""Crops as tars to be imported, one part after the other, each with a gallery.csv of its crops.

The members of a part have the true names of the files in folders of their numbers, such as `000001/anna.jpg`.
So two files of one name do not collide, and a job names each file as its owner does.
"""

import io
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from model.data.folders import MANIFEST, is_image_name, kind_of_skipped
from model.data.labels import LabelWriter
from service.client import CropFile, FailedCrop
from service.client.requests import sendable_name

MAX_FILES = 5_000
MAX_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Part:
    """A tar of crops.

    Attributes:
        archive: the tar.
        crops: the crops in the tar; crop i is at position i.
        failures: files that could not be read, and are not in the tar.
    """

    archive: BinaryIO
    crops: Sequence[CropFile]
    failures: Sequence[FailedCrop]


def pack(
    crops: Sequence[CropFile], *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
) -> Iterator[Part]:
    """Pack crops into tars, one at a time: each tar is deleted when the next one is requested.

    A part has at most `max_files` files and at most `max_bytes` bytes of crops. A crop with more bytes than
    that is a part of its own.
    """
    start = 0
    while start < len(crops):
        with _packed(crops[start : start + max_files], max_bytes) as (part, num):
            yield part
        start += num


@contextmanager
def _packed(crops: Sequence[CropFile], max_bytes: int) -> Iterator[tuple[Part, int]]:
    """Pack the first crops into one part; yield the part, and how many of the crops were packed or failed."""
    packed: list[CropFile] = []
    failures: list[FailedCrop] = []
    manifest = io.StringIO(newline="")
    labels = LabelWriter(manifest)
    num = num_bytes = 0
    with TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for crop in crops:
                size = crop.path.stat().st_size if crop.path.is_file() else 0
                if num and num_bytes + size > max_bytes:
                    break
                num, num_bytes = num + 1, num_bytes + size
                try:
                    content = crop.path.read_bytes()
                except OSError as error:
                    failures.append(FailedCrop(crop.path, error.strerror or str(error)))
                    continue
                name = f"{len(packed):06}/{_member_name(crop.path)}"
                _add(tar, name, content)
                labels.write(name, crop.metadata())
                packed.append(crop)
            _add(tar, MANIFEST, manifest.getvalue().encode(errors="replace"))
        file.seek(0)
        yield Part(file, packed, failures), num


def _member_name(path: Path) -> str:
    """Return the name of a file in a form that the service reads as an image, whatever the file is called.

    >>> _member_name(Path("anna.JPG")), _member_name(Path(".hidden"))
    ('anna.JPG', '_.hidden.jpg')
    """
    name = "".join("?" if unicodedata.category(one) == "Cc" else one for one in sendable_name(path))
    if kind_of_skipped([name]):
        name = f"_{name}"
    return name if is_image_name(name) else f"{name}.jpg"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
