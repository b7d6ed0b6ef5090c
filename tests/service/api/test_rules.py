"""Every endpoint states who may call it, and every role gets exactly that."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyed import as_key, make_key
from live_server import serve
from service.api.app import create_app
from service.api.rules import PUBLIC, RULES, UNLISTED, rule_of
from service.keys.callers import Role
from service.settings import Settings

ROLES = ("nobody", "reader", "operator", "admin", "reader of the door")
OUTSIDE = {"/", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
"""Endpoints that the OpenAPI document does not have."""

DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


Clients = dict[str, httpx.Client]


@pytest.fixture(scope="module")
def keyed(
    make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clients]:
    """Clients of one service by the role of their keys."""
    chosen = make_settings(tmp_path_factory.mktemp("keyed"))
    with serve(chosen) as nobody, ExitStack() as stack:
        keys = {role: make_key(chosen, role) for role in ("reader", "operator", "admin")}
        keys["reader of the door"] = make_key(chosen, "reader", "door", ["door"])
        clients = {role: stack.enter_context(as_key(nobody, key)) for role, key in keys.items()}
        yield {"nobody": nobody, **clients}


def test_every_endpoint_has_a_rule_and_every_rule_an_endpoint() -> None:
    documented = {(method, path) for method, path, _ in OPERATIONS}
    assert documented == {known for known in RULES if known[1] not in OUTSIDE}
    for rule in RULES.values():
        assert rule.role is None or isinstance(rule.role, Role)
        assert rule.cameras in ("own", "none", "any")
    for (method, path), rule in RULES.items():
        if method != "GET" and path != "/session":
            assert rule.turns is not None, (method, path)
            assert rule.action is not None, (method, path)


def test_the_document_says_how_to_send_a_key_and_who_may_call() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    for method, path, operation in OPERATIONS:
        rule = RULES[method, path]
        assert operation.get("x-role") == (None if rule.role is None else rule.role.value)
        assert bool(operation["security"]) == (rule.role is not None)
        assert {"401", "403"} <= operation["responses"].keys() or rule.role is None


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), list(RULES))
def test_each_role_may_call_what_its_rule_allows(keyed: Clients, role: str, method: str, path: str) -> None:
    rule = RULES[method, path]
    answer = keyed[role].request(method, re.sub(r"\{\w+\}", "none", path))
    expected = _expected(role, rule.role, is_limited=rule.cameras == "none")
    if expected is None:
        assert answer.status_code not in (401, 403) or path == "/session", answer.text
        return
    assert (answer.status_code, answer.json()["code"]) == expected
    assert answer.headers["www-authenticate"].startswith('Bearer realm="reid-gallery"')
    assert answer.headers["content-type"] == "application/problem+json"


def _expected(role: str, needed: Role | None, *, is_limited: bool) -> tuple[int, str] | None:
    if needed is None:
        return None
    if role == "nobody":
        return 401, "key_required"
    if not Role(role.split()[0]).allows(needed):
        return 403, "role_too_low"
    return (403, "camera_forbidden") if is_limited and role == "reader of the door" else None


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("PUT", "/gallery"), ("GET", "/web/../gallery")]
)
def test_what_no_endpoint_answers_needs_a_key_too(keyed: Clients, method: str, path: str) -> None:
    assert keyed["nobody"].request(method, path).status_code == 401
    assert keyed["reader"].request(method, path).status_code in (200, 404, 405)


def _routes() -> list[Any]:
    """Return the routes of the app, flat and in the order in which it tries them."""
    found: list[Any] = []
    for route in create_app(Settings()).routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        found += inner.routes if inner is not None else [route]
    return [route for route in found if hasattr(route, "path_regex")]


ROUTES = _routes()
WORDS = sorted({word for _, path in RULES for word in path.split("/")} | {"x", "a b", "\n", ""})
SEGMENTS = st.lists(st.sampled_from(WORDS), max_size=4)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(["GET", "POST", "PATCH", "DELETE"]), SEGMENTS)
def test_the_rule_is_that_of_the_endpoint_that_answers(method: str, segments: list[str]) -> None:
    assert len(ROUTES) > len(OPERATIONS)
    path = "/" + "/".join(segments)
    taken = next((r for r in ROUTES if r.path_regex.match(path) and method in (r.methods or ())), None)
    expected = UNLISTED if taken is None else RULES[method, taken.path]
    assert rule_of(method, path) == expected


def test_only_files_of_the_page_are_public() -> None:
    web = Path(__file__).parents[3] / "service/api/web"
    assert all(rule_of("GET", f"/web/{file.name}") == PUBLIC for file in web.iterdir())
    assert rule_of("POST", "/web/api.js") == rule_of("GET", "/website") == UNLISTED
