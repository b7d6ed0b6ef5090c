"""Enrol, list, correct and delete items, and list cameras."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Unpack

import httpx

from service.client.answers import (
    CamerasAnswer,
    CorrectedItem,
    DeletionAnswer,
    EnrolmentAnswer,
    Item,
    ShownItem,
)
from service.client.calls import Call, Pages, nothing, reads
from service.client.problems import read_answer
from service.client.requests import CropFile, Filters, Layout, OnDuplicate, given, sendable_name
from service.client.service_answers import Job

ARCHIVE_TIMEOUT = httpx.Timeout(3600.0, connect=5.0, pool=None)


def enroll(crops: Sequence[CropFile], *, on_duplicate: OnDuplicate = "return") -> Call[EnrolmentAnswer]:
    """Enrol crops in one request: all of them or none.

    Args:
        crops: 1 to 64 crops.
        on_duplicate: as for `import_archive`; "reject" refuses the whole request.

    Returns:
        The items, in the order of the crops; `is_new` is false for an item that was there already.

    Raises:
        OSError: a file cannot be read.
        Refused: an image cannot be used, and `position` says which, or a field is invalid.
    """
    files = [("images", (sendable_name(crop.path), crop.read())) for crop in crops]
    metadata = json.dumps([crop.metadata() for crop in crops])
    body = {"files": files, "data": {"metadata": metadata, "on_duplicate": on_duplicate}}
    return Call("POST", "/gallery", reads(EnrolmentAnswer), body, is_done_once=True)


def import_archive(
    name: str,
    archive: BinaryIO,
    *,
    layout: Layout = "flat",
    on_duplicate: OnDuplicate = "return",
    identity_id: str | None = None,
    camera_id: str | None = None,
    captured_at: datetime | str | None = None,
    track_id: str | None = None,
) -> Call[Job]:
    """Send an archive of crops, which the service enrols in the background.

    Args:
        name: the file name of the archive.
        archive: a tar (plain, gz or bz2) or zip. Its gallery.csv describes the crops if there is one.
        layout: how file names describe the crops if there is no gallery.csv.
        on_duplicate: what to do if the same camera has sent the same bytes before: "return" or "skip"
            gives the item of that time, "store" adds another item, and "reject" fails the crop. Only
            "skip" compares the crops of `enroll` that have no camera.
        identity_id: the identity of crops that have none in the archive.
        camera_id: the camera of crops that have none in the archive.
        captured_at: the time of crops that have none in the archive.
        track_id: the track of crops that have none in the archive.

    Returns:
        The job that enrols the crops.

    Raises:
        Refused: the archive is torn, hostile or too large, or a field is invalid.
    """
    fields = {
        "layout": layout,
        "on_duplicate": on_duplicate,
        "identity_id": identity_id,
        "camera_id": camera_id,
        "captured_at": captured_at,
        "track_id": track_id,
    }
    files = {"archive": (sendable_name(Path(name)), archive)}
    body = {"files": files, "data": given(fields), "timeout": ARCHIVE_TIMEOUT}
    return Call("POST", "/gallery", reads(Job), body, is_done_once=True)


def list_items(*, embeddings: bool = False, **filters: Unpack[Filters]) -> Pages[Item]:
    """Read the items that pass the filters, in the order of enrolment.

    Args:
        embeddings: whether the items come with their embeddings.
        filters: which items to list.

    Raises:
        Refused: a filter is invalid.
    """
    return Pages("/gallery", "items", Item, given({**filters, "embeddings": True if embeddings else None}))


def get_item(item_id: str) -> Call[ShownItem]:
    """Read one item.

    Raises:
        Refused: there is no such item.
    """
    return Call("GET", f"/gallery/{item_id}", reads(ShownItem), is_safe=True)


def get_image(item_id: str) -> Call[tuple[bytes, str] | None]:
    """Read the stored crop of an item.

    Returns:
        The bytes as they were enrolled and their media type, such as "image/jpeg"; None if the gallery
        has no such item.

    Raises:
        Refused: the crop is missing (code "crop_missing") or was never kept (code "crop_not_kept").
    """
    return Call("GET", f"/gallery/{item_id}/image", _image, is_safe=True)


def _image(response: httpx.Response) -> tuple[bytes, str] | None:
    if response.status_code == httpx.codes.NOT_FOUND:
        return None
    if not response.is_success:
        read_answer(response)
    return response.content, response.headers["content-type"]


def correct_item(item_id: str, **fields: Any) -> Call[CorrectedItem]:
    """Correct the metadata of an item.

    Args:
        item_id: the item.
        fields: new values of `identity_id`, `camera_id`, `captured_at` and `track_id`; None clears a field,
            and a field that is not given stays as it is.

    Raises:
        Refused: there is no such item, or a field is invalid.
    """
    cleared = {name: None for name, value in fields.items() if value is None}
    return Call("PATCH", f"/gallery/{item_id}", reads(CorrectedItem), {"json": {**given(fields), **cleared}})


def delete_item(item_id: str) -> Call[None]:
    """Delete an item, with its embeddings and its crop.

    Raises:
        Refused: there is no such item.
    """
    return Call("DELETE", f"/gallery/{item_id}", nothing)


def delete_items(*, expected_count: int | None, **filters: Unpack[Filters]) -> Call[DeletionAnswer]:
    """Delete all items that pass the filters, if they are as many as expected.

    Args:
        expected_count: how many items are to be deleted; None only counts them.
        filters: which items to delete.

    Raises:
        Refused: there are not so many (code "count_differs"), and none is deleted; or a filter is invalid.
    """
    count = {"dry_run": True} if expected_count is None else {"expected_count": expected_count}
    body = {"json": {"filter": given(filters), **count}}
    return Call("POST", "/gallery/delete", reads(DeletionAnswer), body, is_done_once=True)


def list_cameras(**filters: Unpack[Filters]) -> Call[CamerasAnswer]:
    """Read the cameras of the items that pass the filters, with their counts and times.

    Raises:
        Refused: a filter is invalid.
    """
    return Call("GET", "/cameras", reads(CamerasAnswer), {"params": given(filters)}, is_safe=True)
