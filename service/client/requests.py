"""Arguments of requests: crops, filters and choices, and their form in a request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

GroupBy = Literal["identity", "track", "camera", "item"]
Layout = Literal["flat", "folders", "market1501"]
OnDuplicate = Literal["return", "skip", "store", "reject"]
Strategy = Literal["backfill", "compatible"]


@dataclass(frozen=True)
class CropFile:
    """A crop to enrol: an image file, or its bytes, and the metadata of the crop.

    Attributes:
        path: the file; with `content` only its name counts.
        identity_id: the person, or None for an identity of its own.
        camera_id: the camera.
        captured_at: the time of capture: with a time zone, or as RFC 3339 with an offset.
        track_id: the track, as the tracker of the camera calls it.
        content: the bytes of the image; None to read the file.
    """

    path: Path
    identity_id: str | None = None
    camera_id: str | None = None
    captured_at: datetime | str | None = None
    track_id: str | None = None
    content: bytes | None = field(default=None, repr=False)

    def metadata(self) -> dict[str, str]:
        """Return the metadata fields that are known, as `POST /gallery` takes them.

        >>> CropFile(Path("a.jpg"), camera_id="3").metadata()
        {'camera_id': '3'}
        """
        return given(
            {
                "identity_id": self.identity_id,
                "camera_id": self.camera_id,
                "captured_at": self.captured_at,
                "track_id": self.track_id,
            }
        )

    def read(self) -> bytes:
        """Return the bytes of the image.

        Raises:
            OSError: the file cannot be read.
        """
        return self.path.read_bytes() if self.content is None else self.content


class ItemFilters(TypedDict, total=False):
    """Filters that select items by what cameras know of them.

    An item must pass every filter. An absent filter, or None, passes all items. A filter with several values
    passes items with any of these values. `captured_after` includes the time itself, and `captured_before`
    excludes it.

    The last three fields exclude items that camera `query_camera_id` captured within `exclude_same_camera_s`
    seconds before or after `query_captured_at`. Beside `query_camera_id`, and perhaps `query_captured_at`,
    `exclude_track_id` excludes only the tracks of that camera, and of that time.
    """

    track_id: Sequence[str] | None
    exclude_track_id: Sequence[str] | None
    camera_id: Sequence[str] | None
    exclude_camera_id: Sequence[str] | None
    captured_after: datetime | str | None
    captured_before: datetime | str | None
    exclude_same_camera_s: float | None
    query_camera_id: str | None
    query_captured_at: datetime | str | None


class Filters(ItemFilters, total=False):
    """Filters that select items, also by their identities.

    The identity of an item must have every given `attribute`, each written "name=value".
    `attribute_at_least` and `attribute_at_most`, each written "name=number", include the number itself.
    """

    identity_id: Sequence[str] | None
    exclude_identity_id: Sequence[str] | None
    attribute: Sequence[str] | None
    attribute_at_least: Sequence[str] | None
    attribute_at_most: Sequence[str] | None


class Sought(TypedDict, total=False):
    """Who is looked for beside pictures, as `POST /search` takes it; the embeddings are base64 of float16."""

    item_id: Sequence[str] | None
    query_identity_id: str | None
    embedding: Sequence[str] | None
    embedding_version: str | None
    not_item_id: Sequence[str] | None
    images_weight: float | None
    item_weight: float | None
    query_identity_weight: float | None
    embedding_weight: float | None
    not_item_weight: float | None


class SearchFields(Filters, Sought, total=False):
    """Who is looked for beside pictures, and among which items."""


class BatchedSearch(Sought, total=False):
    """One search of a batch; `images` are the places of its pictures among those of the batch, from 0."""

    images: Sequence[int]
    top_k: int
    group_by: GroupBy
    min_score: float
    filter: Filters


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None; times become RFC 3339.

    >>> given({"after": datetime.fromisoformat("2026-03-01T08:00Z"), "before": None})
    {'after': '2026-03-01T08:00:00+00:00'}
    """
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in fields.items()
        if value is not None
    }


Picture = Path | bytes
"""An image: a file, or the bytes of one."""


def image_parts(name: str, pictures: Sequence[Picture]) -> list[tuple[str, tuple[str, bytes]]]:
    """Read images as parts of a multipart form.

    Raises:
        OSError: a file cannot be read.
    """
    return [
        (name, (sendable_name(picture), picture.read_bytes()))
        if isinstance(picture, Path)
        else (name, (f"{name}[{place}]", picture))
        for place, picture in enumerate(pictures)
    ]


def field_parts(fields: Mapping[str, Any]) -> list[tuple[str, tuple[None, str]]]:
    """Return fields as parts of a multipart form, which httpx makes of fields only if there is a file too.

    >>> field_parts({"item_id": ["a", "b"], "top_k": 3})
    [('item_id', (None, 'a')), ('item_id', (None, 'b')), ('top_k', (None, '3'))]
    """
    several = {
        name: [value] if isinstance(value, str | int | float) else value for name, value in fields.items()
    }
    return [(name, (None, str(one))) for name, values in several.items() for one in values]


def sendable_name(path: Path) -> str:
    """Return the file name; bytes that are not UTF-8 are replaced by `?`."""
    return path.name.encode(errors="replace").decode()
