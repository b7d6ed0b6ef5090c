"""The file of an index: a line that names the format, a JSON header, and then the arrays one after another.

Reading refuses a file that is cut off, too long, or of another format. The caller adds
checksums and atomic renames.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.index.ann import AnnIndex
from service.index.columns import Column, Columns
from service.index.vectors import CHUNK, Embeddings

MAGIC = b"reid-gallery index 1\n"
"""Names the format and its version; `read` refuses a file of another version."""

CODED = ("identities", "cameras", "tracks")


def write(path: Path, columns: Columns, embeddings: Embeddings, ann: AnnIndex | None) -> None:
    """Write an index to a file; the embeddings of deleted rows are written as zeros."""
    serialized = np.empty(0, np.uint8) if ann is None else ann.to_bytes()
    header = {  # the ANN index is named "structure" in version 1 of the format
        "embedding_size": embeddings.size,
        "num_rows": len(columns),
        **{name: column.values for name, column in zip(CODED, _coded(columns), strict=True)},
        "structure": None if ann is None else [ann.kind, ann.num_trained],
        "structure_bytes": len(serialized),
    }
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(MAGIC + len(encoded).to_bytes(8, "little") + encoded)
        for array in _arrays(columns):
            file.write(np.ascontiguousarray(array).data)
        for start in range(0, len(columns), CHUNK):
            rows = slice(start, start + CHUNK)
            is_alive = columns.is_alive[rows]
            rows_ND = (
                embeddings.rows_ND[rows] if is_alive.all() else embeddings.rows_ND[rows] * is_alive[:, None]
            )
            file.write(np.ascontiguousarray(rows_ND, "<f2").data)
        file.write(serialized.data)


def read(path: Path, track_gap: int) -> tuple[Columns, Embeddings, AnnIndex | None]:
    """Read what `write` wrote; tracks are computed with the gap `track_gap`, in microseconds.

    Raises:
        ValueError: the file is damaged, or not an index.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is not an index file")
        try:
            return _read(file, path.stat().st_size, track_gap)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def _read(file: BinaryIO, num_bytes: int, track_gap: int) -> tuple[Columns, Embeddings, AnnIndex | None]:
    header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), num_bytes)))
    num, size = int(header["num_rows"]), int(header["embedding_size"])
    num_ann_bytes = int(header["structure_bytes"])
    if num < 0 or size < 1 or file.tell() + num * (8 + 8 + 1 + 3 * 4 + 2 * size) + num_ann_bytes != num_bytes:
        raise ValueError("the file is not as long as its header says")
    capacity = num + num // 4
    slots, times, is_alive, *codes = (
        _filled(file, np.empty(capacity, kind)[:num]) for kind in ("<i8", "<i8", "?", "<i4", "<i4", "<i4")
    )
    identities, cameras, tracks = (
        _column(codes_N, header[name]) for codes_N, name in zip(codes, CODED, strict=True)
    )
    columns = Columns.of(slots, times, is_alive, identities, cameras, tracks, track_gap)
    if (np.diff(slots) <= 0).any():
        raise ValueError("the slots do not ascend")
    embeddings = Embeddings.empty(size, capacity)
    for start in range(0, num, CHUNK):
        chunk_ND = np.empty((min(CHUNK, num - start), size), "<f2")
        embeddings = embeddings.appended(_filled(file, chunk_ND))
    serialized = _filled(file, np.empty(num_ann_bytes, np.uint8))
    if header["structure"] is None:
        return columns, embeddings, None
    kind, num_trained = header["structure"]
    ann = AnnIndex.from_bytes(kind, num_trained, serialized)
    if ann.num_rows > num or ann.faiss_index.d != size:
        raise ValueError("the ANN index has more rows or another embedding size than the file")
    return columns, embeddings, ann


def _arrays(columns: Columns) -> list[NDArray[Any]]:
    return [columns.slots, columns.times, columns.is_alive, *(column.codes for column in _coded(columns))]


def _coded(columns: Columns) -> tuple[Column[Any], ...]:
    return columns.identities, columns.cameras, columns.tracks


def _column(codes: NDArray[np.int32], values: list[Any]) -> Column[Any]:
    if len(codes) and not (codes.min() >= 0 and codes.max() < len(values)):
        raise ValueError("a code has no value")
    return Column.of(codes, values)


def _filled(file: BinaryIO, array: NDArray[Any]) -> NDArray[Any]:
    file.readinto(array.data)  # type: ignore[attr-defined]
    return array
