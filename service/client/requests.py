"""Arguments of requests: crops, filters and choices, and their form in a request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

GroupBy = Literal["identity", "track", "camera", "item"]
Layout = Literal["flat", "folders", "market1501"]
OnDuplicate = Literal["return", "skip", "store", "reject"]
Strategy = Literal["backfill", "compatible"]


@dataclass(frozen=True)
class CropFile:
    """An image file of a crop, and the metadata of the crop."""

    path: Path
    identity_id: str | None = None
    camera_id: str | None = None
    captured_at: str | None = None
    track_id: str | None = None

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


class Filters(TypedDict, total=False):
    """Filters that select items. An item must pass every filter. An absent filter, or None, passes all items.

    A filter with several values passes items with any of these values. Only attributes differ: the identity
    of an item must have every given `attribute`, each written "name=value". `attribute_at_least` and
    `attribute_at_most`, each written "name=number", include the number itself. `captured_after` includes the
    time itself, and `captured_before` excludes it.

    The last three fields exclude items that camera `query_camera_id` captured within `exclude_same_camera_s`
    seconds before or after `query_captured_at`. Beside `query_camera_id`, and perhaps `query_captured_at`,
    `exclude_track_id` excludes only the tracks of that camera, and of that time.
    """

    identity_id: Sequence[str] | None
    exclude_identity_id: Sequence[str] | None
    track_id: Sequence[str] | None
    exclude_track_id: Sequence[str] | None
    camera_id: Sequence[str] | None
    exclude_camera_id: Sequence[str] | None
    attribute: Sequence[str] | None
    attribute_at_least: Sequence[str] | None
    attribute_at_most: Sequence[str] | None
    captured_after: str | None
    captured_before: str | None
    exclude_same_camera_s: float | None
    query_camera_id: str | None
    query_captured_at: str | None


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def image_parts(field: str, paths: Sequence[Path]) -> list[tuple[str, tuple[str, bytes]]]:
    """Read image files as parts of a multipart form.

    Raises:
        OSError: a file cannot be read.
    """
    return [(field, (sendable_name(path), path.read_bytes())) for path in paths]


def sendable_name(path: Path) -> str:
    """Return the file name; bytes that are not UTF-8 are replaced by `?`."""
    return path.name.encode(errors="replace").decode()
