"""POST /search: who is this, and where else was this person seen?"""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, UploadFile
from pydantic import BeforeValidator, Field

from service.api.problems import responses
from service.api.routes.dependencies import ReadyServing, RequestId
from service.api.schemas.fields import AttributePairs, Names, Seconds, selection_of
from service.api.schemas.search import SearchAnswer
from service.gallery.metadata import OptionalName, OptionalTime, blank_is_none
from service.search.search import Query, search

router = APIRouter(tags=["search"])

MAX_IMAGES = 16

Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=MAX_IMAGES, description="Crops of one person: JPEG, PNG, WebP or BMP."),
]
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
    attribute: Annotated[
        AttributePairs, Form(description="Only identities with this attribute, as name=value; may repeat.")
    ] = [],  # noqa: B006
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
    among = selection_of(
        camera_id=camera_id,
        exclude_camera_id=exclude_camera_id,
        captured_after=captured_after,
        captured_before=captured_before,
        identity_id=identity_id,
        exclude_identity_id=exclude_identity_id,
        track_id=track_id,
        exclude_track_id=exclude_track_id,
        attribute=attribute,
        exclude_same_camera_s=exclude_same_camera_s,
        query_camera_id=query_camera_id,
        query_captured_at=query_captured_at,
    )
    return Query(top_k, group_by, among, min_score)


@router.post("/search", responses=responses(400, 413, 415, 422, 503))
def post_search(
    images: Images, query: Annotated[Query, Depends(query_of)], serving: ReadyServing, request_id: RequestId
) -> SearchAnswer:
    """Rank the identities (tracks, cameras, items) of the gallery by likeness to the crops of one person."""
    started_s = time.perf_counter()
    answer = search(serving, [image.file for image in images], query)
    return SearchAnswer.of(answer, request_id, (time.perf_counter() - started_s) * 1000)
