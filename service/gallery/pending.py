"""Crops that a job is to enrol, with the metadata that an archive gives them.

The metadata come from the gallery.csv of the archive, or from the names of its files.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import ValidationError

from model.data.folders import MANIFEST
from model.data.labels import ENCODING, LabelReader
from model.data.market import DISTRACTOR_PID, JUNK_PID, parse_market1501_name
from model.errors import LabelsError
from service.errors import BadArchive
from service.gallery.metadata import ItemMetadata
from service.uploads.archives import MAX_MEMBERS
from service.uploads.layouts import Layout


@dataclass(frozen=True)
class PendingCrop:
    """A crop of a request.

    Attributes:
        name: the name of its file.
        sha256: the hash of its bytes, or None if gallery.csv names a file that the archive does not have.
        metadata: what is known of the crop.
        error: why the crop cannot be enrolled, if so.
    """

    name: str
    sha256: str | None
    metadata: ItemMetadata
    error: str | None = None


def crops_of_manifest(manifest: bytes, sha256_of: dict[str, str]) -> list[PendingCrop]:
    """Join the rows of a gallery.csv with the crops of its archive.

    Args:
        manifest: the bytes of the gallery.csv.
        sha256_of: the hash of each crop by the name of its file.

    Returns:
        One crop for each row, then one crop with an error for each file that no row names.

    Raises:
        BadArchive: the gallery.csv cannot be read, has no column `path` or has too many rows.
    """
    unnamed = dict(sha256_of)
    crops = []
    for row in _rows(manifest):
        name = "/".join(part for part in row.get("path", "").split("/") if part not in ("", "."))
        sha256 = unnamed.pop(name, None)
        metadata, error = _metadata_of(row)
        if sha256 is None:
            error = f"{MANIFEST} names the file, but the archive lacks it, or {MANIFEST} names it twice"
        crops.append(PendingCrop(name, sha256, metadata, error))
    for name, sha256 in unnamed.items():
        crops.append(PendingCrop(name, sha256, ItemMetadata(), f"{MANIFEST} does not name the file"))
    return crops


def crops_of_names(named: Sequence[tuple[str, str]], layout: Layout) -> list[PendingCrop]:
    """Take the metadata of crops from the names of their files.

    Args:
        named: the name of the file and the hash of each crop.
        layout: how a name gives the identity and the camera.
    """
    crops = []
    for name, sha256 in named:
        try:
            metadata, error = _metadata_of_name(PurePosixPath(name), layout)
        except ValidationError as fault:
            metadata = ItemMetadata()
            error = f"the name of its folder is no identity: {fault.errors()[0]['msg']}"
        crops.append(PendingCrop(name, sha256, metadata, error))
    return crops


def _rows(manifest: bytes) -> list[dict[str, str]]:
    try:
        reader = LabelReader(io.TextIOWrapper(io.BytesIO(manifest), ENCODING, newline=""))
        rows = [row.fields for row in reader]
    except LabelsError as error:
        raise BadArchive(f"{MANIFEST} cannot be read: {error}") from error
    if len(rows) > MAX_MEMBERS:
        raise BadArchive(f"{MANIFEST} has more than {MAX_MEMBERS:,} rows")
    if rows and "path" not in reader.columns:
        raise BadArchive(f"{MANIFEST} has no column named path")
    return rows


def _metadata_of(row: dict[str, str]) -> tuple[ItemMetadata, str | None]:
    """Return the metadata in a row, or empty metadata and an error."""
    fields = {field: row.get(field) or None for field in ItemMetadata.model_fields}
    try:
        return ItemMetadata.model_validate(fields), None
    except ValidationError as error:
        return ItemMetadata(), "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())


def _metadata_of_name(path: PurePosixPath, layout: Layout) -> tuple[ItemMetadata, str | None]:
    """Return the metadata in a name, and why the crop is not to be enrolled, if so.

    Raises:
        ValidationError: the identity in the name is no valid identity id.
    """
    if layout is Layout.flat:
        return ItemMetadata(), None
    if layout is Layout.folders:
        return ItemMetadata(identity_id=path.parent.name), None
    parsed = parse_market1501_name(path.name)
    if parsed is None:
        return ItemMetadata(), "its name is not of the Market-1501 form"
    pid, camera_id = parsed
    metadata = ItemMetadata(identity_id=None if pid == DISTRACTOR_PID else pid, camera_id=camera_id)
    return metadata, "it is junk by its name" if pid == JUNK_PID else None
