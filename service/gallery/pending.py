"""Crops that a job is to enrol, with the metadata that an archive gives them.

The metadata come from the gallery.csv of the archive, or from the names of its files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

from pydantic import ValidationError

from model.data.folders import MANIFEST
from model.data.labels import LabelReader
from model.data.market import DISTRACTOR_PID, EXAMPLE, JUNK_PID, parse_market1501_name
from model.data.names import fold_name
from model.errors import LabelsError
from service.errors import BadArchive
from service.errors.requests import reason_of
from service.gallery.metadata import ItemMetadata
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


def crops_of_manifest(name: str, manifest: bytes, sha256_of: Mapping[str, str]) -> list[PendingCrop]:
    """Join the rows of a gallery.csv with the crops of its archive.

    Args:
        name: the name of the gallery.csv in the archive; its rows name files relative to its folder.
        manifest: the bytes of the gallery.csv.
        sha256_of: the hash of each crop by the name of its file.

    Returns:
        One crop for each row, then one crop with an error for each file that no row names.

    Raises:
        BadArchive: the gallery.csv cannot be read, or a label would be lost.
    """
    folder = PurePosixPath(name).parent
    names = _Names(sha256_of)
    line_of: dict[str, int] = {}
    crops = []
    try:
        for row in LabelReader(BytesIO(manifest)):
            path = str(folder / row.fields["path"].replace("\\", "/"))
            found = names.find(path)
            metadata, error = _metadata_of(row.fields)
            if found in line_of:
                error = f"{MANIFEST} names the file in line {line_of[found]} already"
            elif found is None:
                error = f"{MANIFEST} names the file, but the archive lacks it"
            else:
                line_of[found] = row.line
            sha256 = sha256_of[found] if found and line_of[found] == row.line else None
            crops.append(PendingCrop(found or path, sha256, metadata, error))
    except LabelsError as fault:
        raise BadArchive(f"{name}: {fault}") from fault
    left = [one for one in sha256_of if one not in line_of]
    return crops + [
        PendingCrop(one, sha256_of[one], ItemMetadata(), f"{MANIFEST} does not name the file") for one in left
    ]


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
            error = f"the name of its folder is no identity: {reason_of(fault.errors()[0]['msg'])}"
        crops.append(PendingCrop(name, sha256, metadata, error))
    return crops


class _Names:
    """The names of an archive; a unique name is found in another Unicode form or case of letters too."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._like: dict[str, list[str]] = {}
        for name in names:
            self._like.setdefault(fold_name(name), []).append(name)

    def find(self, name: str) -> str | None:
        if name in self._names:
            return name
        like = self._like.get(fold_name(name), [])
        return like[0] if len(like) == 1 else None


def _metadata_of(fields: Mapping[str, str]) -> tuple[ItemMetadata, str | None]:
    """Return the metadata in a row, or empty metadata and an error."""
    try:
        return ItemMetadata.model_validate(
            {name: fields.get(name) for name in ItemMetadata.model_fields}
        ), None
    except ValidationError as error:
        return ItemMetadata(), "; ".join(f"{e['loc'][0]}: {reason_of(e['msg'])}" for e in error.errors())


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
        return ItemMetadata(), f"its name is not of the Market-1501 form, such as {EXAMPLE}"
    pid, camera_id = parsed
    metadata = ItemMetadata(identity_id=None if pid == DISTRACTOR_PID else pid, camera_id=camera_id)
    return metadata, "it is junk by its name" if pid == JUNK_PID else None
