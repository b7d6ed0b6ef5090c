"""POST /search/batch: many searches in one request."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service.api.problems import responses
from service.api.routes.dependencies import AnyCaller, CheckClient, ReadyServing, RequestId, kind_of
from service.api.schemas.batch import Batch, BatchAnswer
from service.api.schemas.search import SearchAnswer
from service.errors import Fault, InvalidRequest
from service.search.queries import BatchedQuery
from service.search.search import search_batch
from service.settings import MEBIBYTE

router = APIRouter(tags=["search"])

MAX_IMAGES = 200
MAX_JSON_BYTES = 4 * MEBIBYTE
JSON = "application/json"

Queries = Annotated[
    str,
    Form(description='The queries as JSON, as in the body of application/json: `{"queries": [...]}`.'),
]
BatchImages = Annotated[
    list[UploadFile],
    File(max_length=MAX_IMAGES, description="The crops of all queries, which name them by their places."),
]


async def batch_of(request: Request, queries: Queries = "") -> Batch:
    """Return the queries of the form, or of the JSON body.

    Raises:
        HTTPException: the JSON is too long.
        RequestValidationError: the JSON is malformed.
    """
    text = await _read_json(request) if kind_of(request) == JSON else queries.encode()
    try:
        return await run_in_threadpool(Batch.model_validate_json, text)
    except ValidationError as error:
        faults = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_context=False)]
        raise RequestValidationError(faults) from None


async def _read_json(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_JSON_BYTES:
            raise HTTPException(413, f"the JSON has more than {MAX_JSON_BYTES:,} bytes; send fewer queries")
    return bytes(body)


@router.post("/search/batch", responses=responses(400, 404, 409, 413, 415, 422, 503))
def post_batch(
    batch: Annotated[Batch, Depends(batch_of)],
    caller: AnyCaller,
    serving: ReadyServing,
    request_id: RequestId,
    check_client: CheckClient,
    images: BatchImages = [],  # noqa: B006
) -> BatchAnswer:
    """Answer up to 100 searches at once, each as POST /search does. If one is refused, none is answered.

    The body is JSON, or a form with the same JSON in `queries` and crops in `images`.
    """
    started_s = time.perf_counter()
    _require_images(batch, len(images))
    queries = [BatchedQuery(one.query(caller.cameras), tuple(one.images)) for one in batch.queries]
    answers = search_batch(serving, [image.file for image in images], queries, check_client)
    took_ms = (time.perf_counter() - started_s) * 1000
    return BatchAnswer(
        request_id=request_id,
        took_ms=round(took_ms, 3),
        answers=[SearchAnswer.of(answer, request_id, took_ms) for answer in answers],
    )


def _require_images(batch: Batch, num_images: int) -> None:
    """Check that each image that a query names is there, and that each image is named."""
    faults = [
        Fault(("body", "queries", place, "images"), f"there is no image {image} in the form")
        for place, one in enumerate(batch.queries)
        for image in one.images
        if image >= num_images
    ]
    named = {image for one in batch.queries for image in one.images}
    faults += [
        Fault(("body", "images", image), "is in no query")
        for image in range(num_images)
        if image not in named
    ]
    if faults:
        raise InvalidRequest(*faults)


def document_json(document: dict[str, Any]) -> None:
    """Add the JSON body to the OpenAPI document, which FastAPI derives from the form alone."""
    schema = Batch.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= schema.pop("$defs")
    document["components"]["schemas"]["Batch"] = schema
    content = document["paths"]["/search/batch"]["post"]["requestBody"]["content"]
    content[JSON] = {"schema": {"$ref": "#/components/schemas/Batch"}}
