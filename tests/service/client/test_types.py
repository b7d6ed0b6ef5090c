"""The types of the client and the OpenAPI document of the service have the same fields."""

from typing import Any, get_args

import pytest

from service import client
from service.api.app import create_app
from service.client import requests, service_answers
from service.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
ANSWERS = {
    "Item": "ListedItem",
    "EnrolledItem": "EnrolledItem",
    "EnrolmentAnswer": "EnrolmentAnswer",
    "Thresholds": "Thresholds",
    "SearchCalibration": "SearchCalibration",
    "MatchedItem": "MatchedItem",
    "Match": "RankedMatch",
    "SearchAnswer": "SearchAnswer",
    "VerifyAnswer": "VerifyAnswer",
    "BatchAnswer": "BatchAnswer",
    "ModelVersion": "ModelVersion",
    "ModelsAnswer": "ModelsAnswer",
    "FailedFile": "FailedFile",
    "Job": "JobAnswer",
    "Erased": "Erased",
    "Erasure": "ErasureReceipt",
    "Warned": "ItemWarning",
    "RetentionAnswer": "RetentionAnswer",
    "HeldExpiry": "HeldItems",
    "ConfirmationAnswer": "ConfirmationAnswer",
    "Session": "SessionAnswer",
    "JobsAnswer": "JobsAnswer",
    "ShownItem": "ItemAnswer",
    "CorrectedItem": "CorrectionAnswer",
    "DeletionAnswer": "DeletionAnswer",
    "Camera": "CameraFields",
    "CamerasAnswer": "CamerasAnswer",
    "Stats": "StatsAnswer",
    "Day": "DayFields",
    "Index": "IndexFields",
    "ServiceState": "ServiceFields",
    "Storage": "Storage",
    "Versions": "Versions",
    "Identity": "IdentityFields",
    "ShownIdentity": "IdentityAnswer",
    "Visit": "TimelineVisit",
    "Operation": "OperationFields",
    "ShownOperation": "OperationAnswer",
    "MovedItem": "MovedItemFields",
    "Suggestion": "SuggestedPair",
    "SuggestedSide": "SuggestedSide",
    "SuggestionsAnswer": "SuggestionsAnswer",
}
"""Schemas of the document, by types of the client."""


def form(path: str) -> dict[str, Any]:
    reference = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields: dict[str, Any] = SCHEMAS[reference["$ref"].rpartition("/")[2]]["properties"]
    return fields


def query_parameters(path: str) -> set[str]:
    return {one["name"] for one in DOCUMENT["paths"][path]["get"]["parameters"] if one["in"] == "query"}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_has_the_fields_of_the_document(name: str) -> None:
    fields = set(getattr(client, name).model_fields)
    documented = set(SCHEMAS[ANSWERS[name]]["properties"])
    assert fields - {"embedding"} == documented - {"embedding"}


def test_filters_are_those_of_a_list() -> None:
    others = {"limit", "cursor", "embeddings"}
    assert set(requests.Filters.__annotations__) == query_parameters("/gallery") - others
    of_one = query_parameters("/identities/{identity_id}/items")
    assert set(requests.ItemFilters.__annotations__) == of_one - others


def test_searches_are_those_of_the_document() -> None:
    others = {"images", "top_k", "group_by", "min_score"}
    assert set(requests.SearchFields.__annotations__) == set(form("/search")) - others
    assert set(requests.BatchedSearch.__annotations__) == set(SCHEMAS["OneOfBatch"]["properties"])


def test_choices_are_those_of_the_document() -> None:
    enrolment = form("/gallery")
    search = form("/search")
    documented = [
        (requests.GroupBy, search["group_by"]),
        (requests.OnDuplicate, enrolment["on_duplicate"]),
        (requests.Layout, SCHEMAS["Layout"]),
        (requests.Strategy, SCHEMAS["Activation"]["properties"]["strategy"]),
        (service_answers.JobState, SCHEMAS["JobAnswer"]["properties"]["state"]),
    ]
    for choices, schema in documented:
        assert set(get_args(choices)) == set(schema["enum"])
