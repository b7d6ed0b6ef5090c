"""The cache of converted networks: graphs of OpenVINO on the disk, believed only with their checksums.

A graph is an .xml file and a .bin file. The last line of the .xml is a comment of ours. The comment names the
graph and the OpenVINO that wrote it, and has the SHA-256 of the .bin and of the .xml without the comment. A
graph whose files do not match is converted again, because OpenVINO reads a damaged .bin without a word and
then makes wrong embeddings.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino

from model.files import sync_dir, write_atomically
from model.interop.graphs import openvino_core

logger = logging.getLogger(__name__)

XML, BIN = ".xml", ".bin"
UNFINISHED_S = 3600
"""No conversion and no registration takes this long, in seconds."""

_WRITING = ".writing-"
_NAME = re.compile(r"([0-9a-f]{12})-.*\.(xml|bin)")
_COMMENT = re.compile(rb"\n<!-- reid-gallery (\{[^\n]{1,1000}\}) -->\n\Z")


class ConvertedCache:
    """Converted networks in one folder, which may be deleted at any time.

    Args:
        directory: the folder.
        is_read_only: whether nothing may be written into the folder.
    """

    def __init__(self, directory: str | Path, *, is_read_only: bool = False) -> None:
        self._directory = Path(directory)
        self._is_read_only = is_read_only

    def load(self, name: str) -> openvino.Model | None:
        """Return a graph, or None if the graph is not in the cache as this OpenVINO has written it."""
        path = self._directory / f"{name}{XML}"
        if not path.exists():
            return None
        try:
            xml, weights = _verified(path)
            return openvino_core().read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8)))
        except (OSError, ValueError, RuntimeError) as error:
            logger.warning("the converted network is not used, it is converted again: %s", error)
            return None

    def save(self, name: str, graph: openvino.Model) -> None:
        """Write a graph; after a crash the graph is whole, or does not match its checksums.

        A failure is logged and not raised, because the network runs without the cache.
        """
        if self._is_read_only:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=_WRITING, dir=self._directory) as folder:
                self._write(Path(folder) / f"{name}{XML}", graph)
        except (OSError, RuntimeError) as error:
            logger.warning("the converted network %s is not kept: %s", name, error)

    def _write(self, made: Path, graph: openvino.Model) -> None:
        openvino.save_model(graph, made, compress_to_fp16=False)
        xml, weights = made.read_bytes(), made.with_suffix(BIN)
        with weights.open("rb") as file:
            sums = {
                "graph": made.stem,
                "openvino": openvino.__version__,
                "xml": _sha256(xml),
                "bin": hashlib.file_digest(file, "sha256").hexdigest(),
            }
            os.fsync(file.fileno())
        target = self._directory / made.name
        for path in (target, target.with_suffix(BIN)):
            _discard_folder(path)
        weights.replace(target.with_suffix(BIN))
        sync_dir(self._directory)
        write_atomically(target, xml + b"\n<!-- reid-gallery " + json.dumps(sums).encode() + b" -->\n")


def find_damaged(directory: str | Path) -> Iterator[tuple[Path, str]]:
    """Find graphs in a cache that do not match their checksums.

    A graph of another OpenVINO is not among them, because no network is loaded from it.

    Returns:
        The .xml file of each graph, and what is wrong with the graph.
    """
    for path in sorted(path for path in _graph_files(directory) if path.suffix == XML):
        try:
            _verified(path)
        except _OtherOpenVino:
            continue
        except (OSError, ValueError) as error:
            yield path, str(error)


def discard_converted(directory: str | Path, version: str) -> None:
    """Delete the graphs of one model version from a cache."""
    for path in _graph_files(directory):
        if path.name.startswith(f"{version}-"):
            discard(path)


def purge_converted(directory: str | Path, versions: Collection[str]) -> int:
    """Delete the graphs of all model versions but these, and what killed processes have left.

    A file that is younger than UNFINISHED_S stays, because its version may be about to be registered.

    Returns:
        The number of deleted files.
    """
    gone = [path for path in _graph_files(directory) if path.name[:12] not in versions]
    unfinished = [*Path(directory).glob(f"{_WRITING}*"), *Path(directory).glob(".*.tmp")]
    num = 0
    for path in (*gone, *unfinished):
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > UNFINISHED_S:
                discard(path)
                num += 1
    return num


def discard(path: str | Path) -> None:
    """Delete a file of the cache, or a folder that has the name of one."""
    path = Path(path)
    _discard_folder(path)
    path.unlink(missing_ok=True)


class _OtherOpenVino(ValueError):
    """A graph was written by another OpenVINO, or without checksums by an older version of this program."""


def _verified(path: Path) -> tuple[bytes, bytes]:
    """Return the bytes of an .xml without its comment, and of its .bin, which match their checksums.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: a file is not the one that was written.
    """
    content = _read(path)
    comment = _COMMENT.search(content[-1100:])
    if comment is None and content.rstrip().endswith(b"</net>"):
        raise _OtherOpenVino(f"{path.name} was written without checksums")
    if comment is None:
        raise ValueError(f"{path.name} has no checksums at its end")
    sums = json.loads(comment[1])
    xml = content[: len(content) - len(comment[0])]
    if sums.get("graph") != path.stem or _sha256(xml) != sums.get("xml"):
        raise ValueError(f"{path.name} has changed on the disk")
    if sums.get("openvino") != openvino.__version__:
        raise _OtherOpenVino(f"{path.name} was written by another OpenVINO")
    weights = _read(path.with_suffix(BIN))
    if _sha256(weights) != sums.get("bin"):
        raise ValueError(f"{path.with_suffix(BIN).name} has changed on the disk")
    return xml, weights


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise OSError(f"{path.name} is not a file")
    return path.read_bytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _graph_files(directory: str | Path) -> list[Path]:
    return [path for path in Path(directory).glob("*") if _NAME.fullmatch(path.name)]


def _discard_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
