"""POST /search: who is this, and where else was this person seen?"""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, UploadFile
from pydantic import Field

from service.api.problems import responses
from service.api.routes.dependencies import AnyCaller, CheckClient, ReadyServing, RequestId
from service.api.schemas.forms import form_of
from service.api.schemas.search import SearchAnswer
from service.gallery.selection import Selection
from service.search.queries import Query
from service.search.search import search
from service.search.sought import Sought

router = APIRouter(tags=["search"])

MAX_IMAGES = 16

Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=MAX_IMAGES, description="Crops of one person: JPEG, PNG, WebP or BMP."),
]
OptionalImages = Annotated[
    list[UploadFile],
    File(max_length=MAX_IMAGES, description="Crops of one person: JPEG, PNG, WebP or BMP."),
]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


async def query_of(
    among: Annotated[Selection, Depends(form_of(Selection))],
    sought: Annotated[Sought, Depends(form_of(Sought))],
    caller: AnyCaller,
    top_k: Annotated[int, Form(ge=1, le=1000, description="The largest number of matches.")] = 10,
    group_by: Annotated[
        Literal["identity", "track", "camera", "item"],
        Form(
            description="What a match is: an identity; a track, where an item without a track counts as a "
            "track of its own; a camera with its best item; or a single item."
        ),
    ] = "identity",
    min_score: Annotated[Cosine, Form(description="Only matches with at least this score.")] = -1.0,
) -> Query:
    """Return the query that the form describes, among the items that the caller sees."""
    return Query(top_k, group_by, among.within(caller.cameras), min_score, sought, caller.cameras)


@router.post("/search", responses=responses(400, 404, 409, 413, 415, 422, 503))
def post_search(
    query: Annotated[Query, Depends(query_of)],
    serving: ReadyServing,
    request_id: RequestId,
    check_client: CheckClient,
    images: OptionalImages = [],  # noqa: B006
) -> SearchAnswer:
    """Rank the identities (or tracks, cameras, items) by similarity to one person.

    The person is given by crops, by stored items, by an identity, by embeddings, or by several of these.
    """
    started_s = time.perf_counter()
    answer = search(serving, [image.file for image in images], query, check_client)
    return SearchAnswer.of(answer, request_id, (time.perf_counter() - started_s) * 1000)
