"""Export a gallery over the API to files: the crops, their metadata, and on request their embeddings.

`gallery.csv` has a row for each crop; `reid import` and the training read that file. The export gets its
final name only when it is complete.
"""

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
from model.data.labels import LabelWriter
from service.cli.terminal import OnProgress
from service.client import Client, ClientError, FailedCrop, Filters, Item, Refused

ABOUT, EMBEDDINGS = "gallery.json", "embeddings.npy"
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/bmp": ".bmp"}
PACKED_SUFFIXES = frozenset({".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z"})
"""Suffixes of files that are packed, which an export is not: images hardly become smaller."""

ITEMS_PER_BATCH = 64

LABELS = frozenset({"identity_id", "camera_id", "captured_at", "track_id"})
"""The fields of an item that gallery.csv has."""

MakeName = Callable[[Item, str], str]
"""Item, suffix of its image type -> path of the crop within the export."""


class Format(StrEnum):
    """The layout of an export: a folder, a tar with the same files, or a folder named as Market-1501 is."""

    csv = "csv"
    tar = "tar"
    market1501 = "market1501"


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        num_items: how many items were exported.
        num_gone: how many items were deleted during the export.
        failures: the items whose crop is missing.
    """

    num_items: int
    num_gone: int
    failures: Sequence[FailedCrop]


class Sink(Protocol):
    """A folder or an archive that files are written to."""

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
    """Export the items that pass the filters to `out`.

    Args:
        client: of the service.
        out: the folder or tar to write; it must not exist.
        layout: the layout of the export.
        filters: which items to export.
        min_cameras: only export identities whose items, among those that pass the filters, are of at least
            this many cameras.
        embeddings: whether to write embeddings too, in the order of gallery.csv.
        concurrency: how many crops to read at a time.
        on_progress: called with the number of exported items, and the number of items read so far.

    Raises:
        ClientError: a tar has the name of a packed file, no item passes the filters, the service fails, or
            another model version became active during an export of embeddings. `out` is not written.
        OSError: `out` exists already, or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise FileExistsError(errno.EEXIST, "is there already; name another --out", str(out))
    if not out.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "is no folder; make it first", str(out.parent))
    if layout is Format.tar and out.suffix.lower() in PACKED_SUFFIXES:
        raise ClientError(f"{out}: the export is a plain tar; let its name end with .tar")
    wanted = _identities_seen_by(client, filters, min_cameras) if min_cameras > 1 else None
    items = client.list_items(embeddings=embeddings, **filters)
    name = _market1501_names() if layout is Format.market1501 else _plain_name
    make = _tar if layout is Format.tar else _folder
    with make(out) as sink, TemporaryFile() as rows, ThreadPoolExecutor(concurrency) as threads:
        manifest = io.StringIO(newline="")
        labels = LabelWriter(manifest, ("item_id",))
        versions: set[str] = set()
        failures: list[FailedCrop] = []
        num = num_gone = 0
        kept = (item for item in items if wanted is None or item.identity_id in wanted)
        while batch := list(islice(kept, ITEMS_PER_BATCH)):
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
                fields: dict[str, str | None] = item.model_dump(mode="json", include=set(LABELS))
                labels.write(path, fields | {"item_id": item.id})
                versions.add(item.model_version)
                if embeddings:
                    rows.write(_embedding(item))
                num += 1
            on_progress(num, num + num_gone + len(failures))
        if not num and not failures:
            raise ClientError("there is nothing to export: the gallery has no such items")
        _finish(sink, manifest.getvalue(), versions, num, rows if embeddings else None)
    return Exported(num, num_gone, failures)


def _image(client: Client, item: Item) -> tuple[bytes, str] | FailedCrop | None:
    """Read the crop of an item and its media type; None if the item was deleted during the export."""
    try:
        return client.get_image(item.id)
    except Refused as refusal:
        if refusal.code != "crop_missing":
            raise
        return FailedCrop(Path(item.id), str(refusal))


def _identities_seen_by(client: Client, filters: Filters, min_cameras: int) -> set[str]:
    """Return the identities that at least `min_cameras` cameras have seen."""
    cameras: dict[str, set[str]] = defaultdict(set)
    for item in client.list_items(**filters):
        if item.camera_id is not None:
            cameras[item.identity_id].add(item.camera_id)
    return {identity_id for identity_id, seen_by in cameras.items() if len(seen_by) >= min_cameras}


def _embedding(item: Item) -> bytes:
    embedding = item.embedding
    if embedding is None:
        raise ClientError(f"item {item.id} has no embedding yet; export again when the service has made it")
    return b64decode(embedding)


def _plain_name(item: Item, suffix: str) -> str:
    return f"crops/{item.id}{suffix}"


def _market1501_names() -> MakeName:
    """Return a function that names crops as Market-1501 does.

    Identities and cameras are numbered from 1 in the order in which they first appear. Camera 0 stands for an
    item without a camera.

    >>> name = _market1501_names()
    >>> items = [Item.model_construct(identity_id=who, camera_id="door") for who in ("a", "b", "a")]
    >>> [name(item, ".jpg").split("/")[1] for item in items]
    ['0001_c1s1_000001_00.jpg', '0002_c1s1_000002_00.jpg', '0001_c1s1_000003_00.jpg']
    """
    pids: dict[str, int] = {}
    camids: dict[str | None, int] = {None: 0}
    num = 0

    def name(item: Item, suffix: str) -> str:
        nonlocal num
        num += 1
        pid = pids.setdefault(item.identity_id, len(pids) + 1)
        camid = camids.setdefault(item.camera_id, len(camids))
        return f"bounding_box_test/{pid:04}_c{camid}s1_{num:06}_00{suffix}"

    return name


def _finish(sink: Sink, manifest: str, versions: set[str], num: int, rows: BinaryIO | None) -> None:
    """Write the embeddings if there are any, then gallery.json and gallery.csv."""
    if rows is not None:
        if len(versions) > 1:
            raise ClientError("another model version became active during the export: export again")
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
    """Write embeddings as one array (N, D) in .npy format, without loading all of them into memory."""
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

    def add(self, name: str, content: BinaryIO, size: int) -> None:  # noqa: ARG002 - a tar needs the size
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
    """Open a temporary folder, and rename it to `out` when everything is written."""
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        root = Path(temporary) / out.name
        root.mkdir()
        yield _Folder(root)
        root.rename(out)


@contextmanager
def _tar(out: Path) -> Iterator[Sink]:
    """Open a temporary tar, and rename it to `out` when everything is written."""
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        path = Path(temporary) / out.name
        with path.open("xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                yield _Tar(tar)
            file.flush()
            os.fsync(file.fileno())
        path.rename(out)
