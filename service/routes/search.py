"""POST /search: who is this, and where else was this person seen?"""

import time
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, UploadFile
from pydantic import BeforeValidator, Field

from service.errors import InvalidRequest
from service.index import Filter, Sighting
from service.problems import responses
from service.routes.dependencies import ReadyServing, RequestId
from service.schemas import Name, OptionalName, OptionalTime, SearchAnswer, blank_is_none
from service.search import Query, search

router = APIRouter(tags=["search"])

MAX_IMAGES = 16
MAX_SECONDS = 1e9

Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=MAX_IMAGES, description="Crops of one person: JPEG, PNG, WebP or BMP."),
]
Names = Annotated[list[Name], BeforeValidator(lambda names: [name for name in names if name != ""])]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


async def query_of(
    top_k: Annotated[int, Form(ge=1, le=1000, description="How many matches at most.")] = 10,
    group_by: Annotated[
        Literal["identity", "track", "camera", "item"],
        Form(
            description="One match an identity, a track (items without one are tracks of their own), "
            "a camera with its one best item, or an item."
        ),
    ] = "identity",
    identity_id: Annotated[Names, Form(description="Only these identities; may repeat.")] = [],  # noqa: B006
    exclude_identity_id: Annotated[Names, Form(description="Not these identities; may repeat.")] = [],  # noqa: B006
    track_id: Annotated[Names, Form(description="Only these tracks; may repeat.")] = [],  # noqa: B006
    exclude_track_id: Annotated[Names, Form(description="Not these tracks; may repeat.")] = [],  # noqa: B006
    camera_id: Annotated[Names, Form(description="Only these cameras; may repeat.")] = [],  # noqa: B006
    exclude_camera_id: Annotated[Names, Form(description="Not these cameras; may repeat.")] = [],  # noqa: B006
    captured_after: Annotated[
        OptionalTime, Form(description="Only items captured at this time or later (RFC 3339).")
    ] = None,
    captured_before: Annotated[
        OptionalTime, Form(description="Only items captured before this time (RFC 3339).")
    ] = None,
    exclude_same_camera_s: Annotated[
        Seconds | None,
        BeforeValidator(blank_is_none),
        Form(
            description="Not what the query's own camera saw within so many seconds of the query; needs "
            "query_camera_id and query_captured_at."
        ),
    ] = None,
    query_camera_id: Annotated[OptionalName, Form(description="The camera that took the query.")] = None,
    query_captured_at: Annotated[OptionalTime, Form(description="When (RFC 3339).")] = None,
    min_score: Annotated[Cosine, Form(description="Only matches at least this like the query.")] = -1.0,
) -> Query:
    """Read how to search from the form; empty fields count as absent.

    Raises:
        InvalidRequest: if the window of time is empty, or the query's own sighting is half known.
    """
    if captured_after and captured_before and captured_after >= captured_before:
        raise _invalid("captured_after", "must be before captured_before")
    only = Filter(
        camera_ids=frozenset(camera_id),
        excluded_camera_ids=frozenset(exclude_camera_id),
        captured_after=captured_after,
        captured_before=captured_before,
        track_ids=frozenset(track_id),
        excluded_track_ids=frozenset(exclude_track_id),
        excluded_sighting=_sighting(exclude_same_camera_s, query_camera_id, query_captured_at),
    )
    identities = frozenset(identity_id), frozenset(exclude_identity_id)
    return Query(top_k, group_by, only, min_score, *identities)


def _sighting(within_s: float | None, camera_id: str | None, captured_at: datetime | None) -> Sighting | None:
    """Return what is not to be found again, if anything.

    Raises:
        InvalidRequest: if only a part of it is given.
    """
    fields = {
        "exclude_same_camera_s": within_s,
        "query_camera_id": camera_id,
        "query_captured_at": captured_at,
    }
    missing = [name for name, value in fields.items() if value is None]
    if within_s is not None and camera_id is not None and captured_at is not None:
        return Sighting(camera_id, captured_at, within_s)
    if len(missing) < len(fields):
        raise _invalid(missing[0], f"is needed beside {' and '.join(n for n in fields if n not in missing)}")
    return None


def _invalid(field: str, reason: str) -> InvalidRequest:
    error = {"loc": ["body", field], "msg": reason, "type": "value_error"}
    return InvalidRequest(f"{field} {reason}", [error])


@router.post("/search", responses=responses(400, 413, 415, 422, 503))
def post_search(
    images: Images, query: Annotated[Query, Depends(query_of)], serving: ReadyServing, request_id: RequestId
) -> SearchAnswer:
    """Rank the identities (tracks, cameras, items) of the gallery by likeness to the crops of one person."""
    started_s = time.perf_counter()
    answer = search(serving, [image.file for image in images], query)
    return SearchAnswer.of(answer, request_id, (time.perf_counter() - started_s) * 1000)
