"""A gallery in files, read over the API: crops, what is known of them, and embeddings if wanted.

`gallery.csv` has a row for each crop; it is what `reid import` reads, and training. What is exported appears
under its name when it is whole.
"""

import csv
import errno
import io
import json
import os
import shutil
import tarfile
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import BinaryIO, Protocol

from model.data.folders import MANIFEST
from model.data.labels import COLUMNS
from service.cli.terminal import OnProgress
from service.client import Client, ClientError, FailedCrop, Filters, Item, Refused

ABOUT, EMBEDDINGS = "gallery.json", "embeddings.npy"
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/bmp": ".bmp"}
AT_ONCE = 64

Name = Callable[[Item, str], str]
"""Makes the path of a crop of an item and the suffix of its type."""


class Format(StrEnum):
    """What an export looks like: a folder, the same in one tar, or a folder as Market-1501 names files."""

    csv = "csv"
    tar = "tar"
    market1501 = "market1501"


@dataclass(frozen=True)
class Exported:
    """How many items are exported, how many were deleted meanwhile, and those whose crop is missing."""

    num_items: int
    num_gone: int
    failures: Sequence[FailedCrop]


class Sink(Protocol):
    """Where files go."""

    def add(self, name: str, content: BinaryIO, size: int) -> None:
        """Write one file."""


def export(
    client: Client,
    out: Path,
    layout: Format,
    filters: Filters,
    *,
    min_cameras: int = 1,
    embeddings: bool = False,
    concurrency: int = 4,
    on_progress: OnProgress,
) -> Exported:
    """Write what the filters let through to `out`.

    Args:
        client: of the service.
        out: a folder or a file that is not there yet.
        layout: of what is written.
        filters: which items to export.
        min_cameras: leave out people whom fewer cameras saw, among these items.
        embeddings: write them too, in the order of gallery.csv.
        concurrency: crops that are read at once.
        tell: is told how many are done, of how many so far.

    Raises:
        ClientError: there is no such item, the service fails, or has changed its network meanwhile; nothing
            is left.
        OSError: `out` is there already, or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise FileExistsError(errno.EEXIST, "is there already; name another --out", str(out))
    wanted = _seen_by(client, filters, min_cameras) if min_cameras > 1 else None
    items = client.list_items(embeddings=embeddings, **filters)
    name = _market1501_names() if layout is Format.market1501 else _plain_name
    make = _tar if layout is Format.tar else _folder
    with make(out) as sink, TemporaryFile() as rows, ThreadPoolExecutor(concurrency) as threads:
        manifest = io.StringIO(newline="")
        writer = csv.writer(manifest, lineterminator="\n")
        writer.writerow([*COLUMNS, "item_id"])
        versions: set[str] = set()
        failures: list[FailedCrop] = []
        num = num_gone = 0
        kept = (item for item in items if wanted is None or item["identity_id"] in wanted)
        while batch := list(islice(kept, AT_ONCE)):
            for item, found in zip(batch, threads.map(partial(_image, client), batch), strict=True):
                if found is None:
                    num_gone += 1
                    continue
                if isinstance(found, FailedCrop):
                    failures.append(found)
                    continue
                content, content_type = found
                path = name(item, SUFFIXES[content_type])
                sink.add(path, io.BytesIO(content), len(content))
                writer.writerow([path, *(dict(item)[column] for column in COLUMNS[1:]), item["id"]])
                versions.add(item["model_version"])
                if embeddings:
                    rows.write(_embedding(item))
                num += 1
            on_progress(num, num + num_gone + len(failures))
        if not num and not failures:
            raise ClientError("there is nothing to export: the gallery has no such items")
        _finish(sink, manifest.getvalue(), versions, num, rows if embeddings else None)
    return Exported(num, num_gone, failures)


def _image(client: Client, item: Item) -> tuple[bytes, str] | FailedCrop | None:
    """Read a crop and its type; None if the item was deleted meanwhile."""
    try:
        return client.get_image(item["id"])
    except Refused as refusal:
        if refusal.code != "crop_missing":
            raise
        return FailedCrop(Path(item["id"]), str(refusal))


def _seen_by(client: Client, filters: Filters, min_cameras: int) -> set[str]:
    """Return the identities that so many cameras have seen."""
    cameras: dict[str, set[str]] = defaultdict(set)
    for item in client.list_items(**filters):
        if item["camera_id"] is not None:
            cameras[item["identity_id"]].add(item["camera_id"])
    return {identity_id for identity_id, seen_by in cameras.items() if len(seen_by) >= min_cameras}


def _embedding(item: Item) -> bytes:
    embedding = item.get("embedding")
    if embedding is None:
        raise ClientError(
            f"item {item['id']} has no embedding yet; export again when the service has made it"
        )
    return b64decode(embedding)


def _plain_name(item: Item, suffix: str) -> str:
    return f"crops/{item['id']}{suffix}"


def _market1501_names() -> Name:
    """Number identities and cameras as they come; camera 0 is no camera.

    >>> name = _market1501_names()
    >>> [name({"identity_id": who, "camera_id": "door"}, ".jpg").split("/")[1] for who in ("a", "b", "a")]
    ['0001_c1s1_000001_00.jpg', '0002_c1s1_000002_00.jpg', '0001_c1s1_000003_00.jpg']
    """
    pids: dict[str, int] = {}
    camids: dict[str | None, int] = {None: 0}
    num = 0

    def name(item: Item, suffix: str) -> str:
        nonlocal num
        num += 1
        pid = pids.setdefault(item["identity_id"], len(pids) + 1)
        camid = camids.setdefault(item["camera_id"], len(camids))
        return f"bounding_box_test/{pid:04}_c{camid}s1_{num:06}_00{suffix}"

    return name


def _finish(sink: Sink, manifest: str, versions: set[str], num: int, rows: BinaryIO | None) -> None:
    """Write what is known of the crops, and their embeddings."""
    if rows is not None:
        if len(versions) > 1:
            raise ClientError("the service has changed its network meanwhile: export again")
        _add_embeddings(sink, rows, num)
    about = {
        "format": 1,
        "exported_at": datetime.now(UTC).isoformat(),
        "num_items": num,
        "model_version": next(iter(versions)) if len(versions) == 1 else None,
    }
    for name, content in ((ABOUT, json.dumps(about, indent=1) + "\n"), (MANIFEST, manifest)):
        encoded = content.encode()
        sink.add(name, io.BytesIO(encoded), len(encoded))


def _add_embeddings(sink: Sink, rows: BinaryIO, num: int) -> None:
    """Write embeddings as one array (N, D), which need not be in memory at once."""
    import numpy as np

    size = rows.tell()
    header = {"descr": "<f2", "fortran_order": False, "shape": (num, size // (2 * num) if num else 0)}
    with TemporaryFile() as array:
        np.lib.format.write_array_header_1_0(array, header)
        rows.seek(0)
        shutil.copyfileobj(rows, array)
        size = array.tell()
        array.seek(0)
        sink.add(EMBEDDINGS, array, size)


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, name: str, content: BinaryIO, size: int) -> None:  # noqa: ARG002 - a tar must know
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            shutil.copyfileobj(content, file)


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, content: BinaryIO, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, int(time.time()), 0o600
        self._tar.addfile(info, content)


@contextmanager
def _folder(out: Path) -> Iterator[Sink]:
    """Give a folder that gets its name when all is in it."""
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        root = Path(temporary) / out.name
        root.mkdir()
        yield _Folder(root)
        root.rename(out)


@contextmanager
def _tar(out: Path) -> Iterator[Sink]:
    """Give a tar that gets its name when all is in it."""
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        path = Path(temporary) / out.name
        with path.open("xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                yield _Tar(tar)
            file.flush()
            os.fsync(file.fileno())
        path.rename(out)
