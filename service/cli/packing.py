"""Pack a folder of crops into archives for `reid import`, each with a gallery.csv that describes its crops.

The metadata of a crop comes from the gallery.csv of the folder, or without one from the file names. Within an
archive the crops are named by numbers, because the service refuses some file names, such as very long ones.
"""

import csv
import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import BinaryIO

from model.data.folders import MANIFEST
from model.data.labels import COLUMNS, ENCODING, LabelReader
from model.errors import LabelsError
from service.cli.folders import find_crops
from service.client import ClientError, FailedCrop
from service.uploads.layouts import Layout

FIELDS = COLUMNS[1:]
MAX_FILES = 5_000
MAX_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Row:
    """A crop and its metadata; `fields` are the values of `FIELDS`, each empty if unknown."""

    path: Path
    fields: tuple[str, ...]


@dataclass(frozen=True)
class FoundRows:
    """The crops of a folder.

    Attributes:
        rows: the crops to import.
        failures: files that cannot be imported, and why.
        num_skipped: how many files are junk or no images.
    """

    rows: Sequence[Row]
    failures: Sequence[FailedCrop]
    num_skipped: int = 0


def find_rows(folder: Path, layout: Layout) -> FoundRows:
    """Find the crops of a folder by its gallery.csv, or without one by `layout`.

    Raises:
        ClientError: gallery.csv cannot be read.
    """
    manifest = folder / MANIFEST
    if manifest.is_file():
        return _by_manifest(manifest)
    found = find_crops([folder], layout)
    rows = [Row(crop.path, (crop.identity_id or "", crop.camera_id or "", "", "")) for crop in found.crops]
    failures = [FailedCrop(path, "its name is not of the Market-1501 form") for path in found.misnamed]
    return FoundRows(rows, failures, found.num_junk + found.num_not_images)


def _by_manifest(manifest: Path) -> FoundRows:
    rows: list[Row] = []
    failures: list[FailedCrop] = []
    try:
        with manifest.open(encoding=ENCODING, newline="") as file:
            reader = LabelReader(file)
            if "path" not in reader.columns:
                raise ClientError(f"{manifest} has no column named path")
            for row in reader:
                name = PurePosixPath(row.fields.get("path", ""))
                path = manifest.parent / name
                if name.is_absolute() or ".." in name.parts or not name.parts:
                    failures.append(FailedCrop(Path(name), f"{MANIFEST} names no file within its folder"))
                else:
                    rows.append(Row(path, tuple(row.fields.get(field, "") for field in FIELDS)))
    except LabelsError as error:
        raise ClientError(f"{manifest} cannot be read as a CSV: {error}") from error
    return FoundRows(rows, failures)


@dataclass(frozen=True)
class Part:
    """A tar of crops.

    Attributes:
        archive: the tar.
        rows: the crops in the tar; row i is at position i.
        failures: files that could not be read, and are not in the tar.
    """

    archive: BinaryIO
    rows: Sequence[Row]
    failures: Sequence[FailedCrop]


def pack(rows: Sequence[Row], *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> Iterator[Part]:
    """Pack crops into tars, one at a time: each tar is deleted when the next one is requested.

    A part has at most `max_files` files and at most `max_bytes` bytes of crops. A crop with more bytes than
    that is a part of its own.
    """
    start = 0
    while start < len(rows):
        with _packed(rows[start : start + max_files], max_bytes) as (part, num):
            yield part
        start += num


@contextmanager
def _packed(rows: Sequence[Row], max_bytes: int) -> Iterator[tuple[Part, int]]:
    """Pack the first crops into one part; yield the part, and how many of `rows` were packed or failed."""
    packed: list[Row] = []
    failures: list[FailedCrop] = []
    manifest = io.StringIO(newline="")
    writer = csv.writer(manifest, lineterminator="\n")
    writer.writerow(COLUMNS)
    num = num_bytes = 0
    with TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for row in rows:
                size = row.path.stat().st_size if row.path.is_file() else 0
                if num and num_bytes + size > max_bytes:
                    break
                num, num_bytes = num + 1, num_bytes + size
                try:
                    content = row.path.read_bytes()
                except OSError as error:
                    failures.append(FailedCrop(row.path, error.strerror or str(error)))
                    continue
                name = f"{len(packed):06}.jpg"
                _add(tar, name, content)
                writer.writerow([name, *row.fields])
                packed.append(row)
            _add(tar, MANIFEST, manifest.getvalue().encode(errors="replace"))
        file.seek(0)
        yield Part(file, packed, failures), num


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
