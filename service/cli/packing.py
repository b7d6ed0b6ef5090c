"""A folder of crops as tars to be imported, one part after the other, each with the rows of its crops.

What is known of a crop stands in the folder's gallery.csv, if it has one, or else in the names of its files.
In a part its crops are numbered: no name of a file can stand in the way.
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
FILES_IN_A_PART = 5_000
BYTES_IN_A_PART = 512 * 1024 * 1024


@dataclass(frozen=True)
class Row:
    """A crop and what is known of it, by the fields of gallery.csv; what is not known is empty."""

    path: Path
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The crops of a folder, and those that cannot be taken."""

    rows: Sequence[Row]
    failures: Sequence[FailedCrop]
    num_skipped: int = 0


def find_rows(folder: Path, layout: Layout) -> Found:
    """Look for the crops of a folder, by its gallery.csv or else by `layout`.

    Raises:
        ClientError: gallery.csv cannot be read.
    """
    manifest = folder / MANIFEST
    if manifest.is_file():
        return _by_manifest(manifest)
    found = find_crops([folder], layout)
    rows = [Row(crop.path, (crop.identity_id or "", crop.camera_id or "", "", "")) for crop in found.crops]
    failures = [FailedCrop(path, "its name is not of the Market-1501 form") for path in found.misnamed]
    return Found(rows, failures, found.num_junk + found.num_not_images)


def _by_manifest(manifest: Path) -> Found:
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
                    failures.append(FailedCrop(Path(name), f"{MANIFEST} names what is not in its folder"))
                else:
                    rows.append(Row(path, tuple(row.fields.get(field, "") for field in FIELDS)))
    except LabelsError as error:
        raise ClientError(f"{manifest} cannot be read as a CSV: {error}") from error
    return Found(rows, failures)


@dataclass(frozen=True)
class Part:
    """A tar, and the crops in it by their positions."""

    archive: BinaryIO
    rows: Sequence[Row]
    failures: Sequence[FailedCrop]


def pack(
    rows: Sequence[Row], *, max_files: int = FILES_IN_A_PART, max_bytes: int = BYTES_IN_A_PART
) -> Iterator[Part]:
    """Pack crops into tars, each of which is gone when the next one is asked for.

    A part ends with as many files, or before it would have more bytes; a larger file is a part of its own.
    """
    start = 0
    while start < len(rows):
        with _packed(rows[start : start + max_files], max_bytes) as (part, num):
            yield part
        start += num


@contextmanager
def _packed(rows: Sequence[Row], max_bytes: int) -> Iterator[tuple[Part, int]]:
    """Pack the first of these crops, and tell how many of them have been looked at."""
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
