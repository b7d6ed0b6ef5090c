"""Error responses of the API: every one is a problem document, application/problem+json (RFC 9457)."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from service.api.rules import RULES
from service.api.schemas.problems import Problem
from service.api.slashes import restore_slashes
from service.errors import AccessError, Fault, InvalidRequest, ServiceError
from service.errors.requests import reason_of
from service.store.failures import from_temporary_file, to_service_error

logger = structlog.get_logger(__name__)

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes it safe to send the request again. Within 24 hours, a repeat with the same key and "
    "body gets the first answer, with the header Idempotency-Replayed: true. A repeat with another body is "
    "refused with 422, and a repeat while the first request is in progress with 409.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}

PROBLEM_JSON = "application/problem+json"

HTTP_CODES = {
    400: "malformed_body",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "request_too_large",
    416: "range_not_satisfiable",
    431: "headers_too_large",
}
"""Codes of plain HTTP errors, which no ServiceError describes, by status."""


def problem(request_id: str, status: int, code: str, title: str, detail: str, **members: Any) -> JSONResponse:
    """Return a problem document as a response."""
    body = {
        "type": f"urn:reid-gallery:problem:{code}",
        "title": title,
        "status": status,
        "detail": restore_slashes(detail),
        "code": code,
        "request_id": request_id,
        **members,
    }
    return JSONResponse(body, status, media_type=PROBLEM_JSON)


def service_problem(request_id: str, error: ServiceError) -> JSONResponse:
    """Return the problem document of an error that the service names."""
    response = problem(request_id, error.status, error.code, error.title, str(error), **error.members())
    if isinstance(error, AccessError):
        response.headers["WWW-Authenticate"] = error.challenge
    if error.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def failure_problem(request_id: str, error: OSError | SQLAlchemyError) -> JSONResponse:
    """Return the problem document of a failure of the disk or the database.

    Raises:
        OSError, SQLAlchemyError: the same error, if a defect of this program has caused it.
    """
    explained = to_service_error(error)
    if explained is None:
        raise error
    logger.warning("request failed", code=explained.code, reason=str(error))
    return service_problem(request_id, explained)


def temporary_problem(request_id: str, error: OSError) -> JSONResponse:
    """Return the problem document of a body that no temporary file could keep."""
    explained = from_temporary_file(error)
    logger.warning("the body of a request cannot be kept", code=explained.code, reason=str(error))
    return service_problem(request_id, explained)


def http_problem(request_id: str, status: int, detail: str) -> JSONResponse:
    """Return the problem document of a plain HTTP error."""
    code = HTTP_CODES.get(status, f"http_{status}")
    return problem(request_id, status, code, HTTPStatus(status).phrase, detail)


def add_problem_handlers(app: FastAPI) -> None:
    """Make the app answer every error with a problem document."""

    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> JSONResponse:
        return service_problem(request.state.request_id, error)

    @app.exception_handler(SQLAlchemyError)
    @app.exception_handler(OSError)
    async def on_failure(request: Request, error: OSError | SQLAlchemyError) -> JSONResponse:
        return failure_problem(request.state.request_id, error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return service_problem(request.state.request_id, invalid_request(error))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError):  # FastAPI says 400 of every failure to read a form
            return temporary_problem(request.state.request_id, error.__cause__)
        if isinstance(error.__cause__, ServiceError):
            return service_problem(request.state.request_id, error.__cause__)
        response = http_problem(request.state.request_id, error.status_code, error.detail)
        response.headers.update(error.headers or {})
        return response


def invalid_request(error: RequestValidationError) -> InvalidRequest:
    """Return an error that names each faulty field and its fault, but no values, which may be private."""
    return InvalidRequest(
        *(Fault(tuple(one["loc"]), _what_is_wrong(one["msg"]), one["type"]) for one in error.errors())
    )


def _what_is_wrong(message: str) -> str:
    """Return the fault of a field as the service words it.

    >>> _what_is_wrong("Value error, the time has no offset")
    'the time has no offset'
    """
    message = reason_of(message)
    is_text = message.startswith("Expected UploadFile")
    return "a text was sent and not a file; with curl write -F images=@crop.jpg" if is_text else message


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of an endpoint that answers these statuses with problem documents."""
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {PROBLEM_JSON: reference}}
        for status in statuses
    }


def document_problems(app: FastAPI) -> None:
    """Add the problem schema to the OpenAPI document, and the Idempotency-Key to each POST that takes it.

    Call this after all routes have been added.
    """
    document = app.openapi()
    document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    for template, path in document["paths"].items():
        if "post" in path:
            statuses = [413, 422, 503]
            if RULES["POST", template].is_done_once:
                path["post"].setdefault("parameters", []).append(IDEMPOTENCY_KEY)
                statuses.insert(0, 409)
            for status, description in responses(*statuses).items():
                path["post"]["responses"].setdefault(str(status), description)
