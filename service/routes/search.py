"""POST /search: who is this, and where else was this person seen?"""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, UploadFile
from pydantic import BeforeValidator, Field

from service.errors import InvalidRequest
from service.index import Filter
from service.problems import responses
from service.routes.dependencies import ReadyServing, RequestId
from service.schemas import Name, OptionalTime, SearchAnswer
from service.search import Query, search

router = APIRouter(tags=["search"])

MAX_IMAGES = 16

Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=MAX_IMAGES, description="Crops of one person: JPEG, PNG, WebP or BMP."),
]
Cameras = Annotated[list[Name], BeforeValidator(lambda names: [name for name in names if name != ""])]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


async def query_of(
    top_k: Annotated[int, Form(ge=1, le=1000, description="How many matches at most.")] = 10,
    group_by: Annotated[
        Literal["identity", "item"], Form(description="One match an identity, or one an item.")
    ] = "identity",
    camera_id: Annotated[Cameras, Form(description="Only these cameras; may repeat.")] = [],  # noqa: B006
    exclude_camera_id: Annotated[Cameras, Form(description="Not these cameras; may repeat.")] = [],  # noqa: B006
    captured_after: Annotated[
        OptionalTime, Form(description="Only items captured at this time or later (RFC 3339).")
    ] = None,
    captured_before: Annotated[
        OptionalTime, Form(description="Only items captured before this time (RFC 3339).")
    ] = None,
    min_score: Annotated[Cosine, Form(description="Only matches at least this like the query.")] = -1.0,
) -> Query:
    """Read how to search from the form; empty fields count as absent.

    Raises:
        InvalidRequest: if the window of time is empty.
    """
    if captured_after and captured_before and captured_after >= captured_before:
        raise InvalidRequest(
            "captured_after must be before captured_before",
            [{"loc": ["body", "captured_after"], "msg": "not before captured_before", "type": "value_error"}],
        )
    only = Filter(frozenset(camera_id), frozenset(exclude_camera_id), captured_after, captured_before)
    return Query(top_k, group_by, only, min_score)


@router.post("/search", responses=responses(400, 413, 415, 422, 503))
def post_search(
    images: Images, query: Annotated[Query, Depends(query_of)], serving: ReadyServing, request_id: RequestId
) -> SearchAnswer:
    """Rank the identities (or items) of the gallery by likeness to the crops, which show one person."""
    started_s = time.perf_counter()
    answer = search(serving, [image.file for image in images], query)
    return SearchAnswer.of(answer, request_id, (time.perf_counter() - started_s) * 1000)
