"""Whatever a request holds, allowed by our own OpenAPI or not, the answer is documented and below 500."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from live_server import crop, enroll
from service.api.app import create_app
from service.settings import Settings

EXAMPLES_EACH, EXAMPLES_EACH_LONG = 10, 100
"""For each of the operations, of which there are more than twenty: more than 2,000 in all with --long."""

Case = schemathesis.Case[Any]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


SCHEMA = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
OPERATIONS = {
    result.ok().label: result.ok() for result in SCHEMA.get_all_operations() if isinstance(result, Ok)
}


@pytest.fixture(scope="module")
def busy_client(shared_client: httpx.Client) -> httpx.Client:
    """A client of a service that has something under the names that are tried first."""
    enroll(shared_client, crop(1), crop(2), identity_id="0", camera_id="0", track_id="0")
    return shared_client


@pytest.mark.parametrize("label", OPERATIONS)
def test_any_request_is_answered_as_documented(busy_client: httpx.Client, label: str, is_long: bool) -> None:
    operation = OPERATIONS[label]
    cases = operation.as_strategy()
    if {"parameters", "requestBody"} & set(operation.definition.raw):
        cases |= operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(
        max_examples=EXAMPLES_EACH_LONG if is_long else EXAMPLES_EACH,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases, st.booleans())
    def send(case: Case, is_about_what_is_there: bool) -> None:
        if is_about_what_is_there:
            speak_of_what_is_there(busy_client, case)
        answer = case.call(base_url=str(busy_client.base_url))
        if "x-request-id" in answer.headers:
            case.validate_response(answer, checks=CHECKS)
        else:  # what is not even HTTP is refused before it is a request to the app
            assert answer.status_code == 400

    send()


def speak_of_what_is_there(client: httpx.Client, case: Case) -> None:
    """Put a real id, or a real image, where the case has one by chance."""
    if "item_id" in (case.path_parameters or {}):
        items = client.get("/gallery").json()["items"] or enroll(client, crop(1))
        case.path_parameters["item_id"] = items[0]["id"]
    body: Any = case.body
    if isinstance(body, dict) and isinstance(body.get("images"), list):
        body["images"] = [crop(seed) for seed, _ in enumerate(body["images"][:4])]
