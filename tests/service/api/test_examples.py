"""The OpenAPI document says in words what a request does, and shows bodies and answers that are valid."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from service.api.app import create_app
from service.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    pytest.param(operation, id=f"{method.upper()} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def named(schema: dict[str, Any]) -> Iterator[str]:
    """Return the names of the schemas that a body or an answer may have."""
    for one in schema.get("anyOf", [schema]):
        if "$ref" in one:
            yield one["$ref"].rpartition("/")[2]


def shown() -> set[str]:
    """Return the names of the schemas of all bodies and answers."""
    contents = [
        content
        for operations in DOCUMENT["paths"].values()
        for operation in operations.values()
        for told in (operation.get("requestBody", {}), *operation["responses"].values())
        for content in told.get("content", {}).values()
    ]
    return {name for content in contents for name in named(content.get("schema", {}))}


@pytest.mark.parametrize("name", sorted(shown()))
def test_each_body_and_answer_has_an_example_that_is_valid(name: str) -> None:
    (example,) = SCHEMAS[name]["examples"]
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    errors = [f"{error.instance_path}: {error.message}" for error in _errors(schema, example)]
    assert not errors, f"run tests/make_examples.py: {errors}"
    missing = {*SCHEMAS[name].get("required", ())} - example.keys()
    unknown = example.keys() - SCHEMAS[name]["properties"].keys() - {"errors"}
    assert (missing, unknown) == (set(), set())


def _errors(schema: dict[str, Any], value: Any) -> Iterator[Any]:
    return jsonschema_rs.validator_for(schema).iter_errors(value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_request_is_summed_up_in_words(operation: dict[str, Any]) -> None:
    summary = operation["summary"]
    assert operation["description"].replace("\n", " ").startswith(summary)
    assert len(summary.split()) >= 3
    assert len(summary) <= 100


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_parameter_that_may_be_left_out_says_what_holds_then(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        may_be_null = any(one.get("type") == "null" for one in schema.get("anyOf", []))
        is_known = parameter["required"] or "default" in schema or may_be_null
        assert is_known or parameter["name"] == "Idempotency-Key", parameter["name"]
