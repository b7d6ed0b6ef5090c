"""What is refused at the door, and how it is said: bodies, forms, and problem documents."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from live_server import crop, enroll, images, serve
from service.settings import Settings


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) >= {"type", "title", "status", "detail", "code", "request_id"}
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/gallery/absent", 404, "item_not_found"),
        ("GET", "/gallery/" + "x" * 5000, 404, "item_not_found"),
        ("GET", "/gallery/%00%ff", 404, "item_not_found"),
        ("GET", "/gallery/absent/image", 404, "item_not_found"),
        ("DELETE", "/gallery/absent", 404, "item_not_found"),
        ("PUT", "/search", 405, "method_not_allowed"),
        ("GET", "/jobs/absent", 404, "job_not_found"),
        ("GET", "/models/absent", 404, "model_not_found"),
        ("POST", "/models/absent/activate", 404, "model_not_found"),
        ("POST", "/gallery", 422, "invalid_request"),
        ("POST", "/search", 422, "invalid_request"),
        ("POST", "/models", 422, "invalid_request"),
    ],
)
def test_every_refusal_is_a_problem_document(
    shared_client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    assert_problem(shared_client.request(method, path), status, code)


@pytest.mark.parametrize(
    ("method", "path", "form", "loc", "detail"),
    [
        ("POST", "/gallery", {"identity": "anna"}, ["body", "identity"], "did you mean identity_id?"),
        ("POST", "/search", {"camera": "x"}, ["body", "camera"], "did you mean camera_id?"),
        ("POST", "/search?topk=3", {}, ["query", "topk"], "takes no query parameters"),
        ("GET", "/gallery?camera=x", None, ["query", "camera"], "did you mean camera_id?"),
        ("GET", "/gallery?zzz=x", None, ["query", "zzz"], "the fields are track_id"),
        ("DELETE", "/identities/anna?mod=erase", None, ["query", "mod"], "did you mean mode?"),
        ("DELETE", "/gallery/x?mode=erase", None, ["query", "mode"], "takes no query parameters"),
        ("GET", "/models?state=active", None, ["query", "state"], "takes no query parameters"),
    ],
)
def test_a_field_that_an_endpoint_does_not_have_is_refused_by_name(
    shared_client: httpx.Client,
    method: str,
    path: str,
    form: dict[str, str] | None,
    loc: list[str],
    detail: str,
) -> None:
    before = shared_client.get("/gallery").json()["items"]
    files = None if form is None else images(crop(1))
    problem = assert_problem(
        shared_client.request(method, path, data=form, files=files), 422, "invalid_request"
    )
    assert [fault["loc"] for fault in problem["errors"]] == [loc]
    assert loc[1] in problem["detail"]
    assert detail in problem["detail"]
    assert shared_client.get("/gallery").json()["items"] == before


def test_a_sane_request_id_is_kept_and_another_replaced(shared_client: httpx.Client) -> None:
    kept = shared_client.get("/gallery/x", headers={"X-Request-ID": "cam-7_a.1"})
    assert kept.json()["request_id"] == kept.headers["x-request-id"] == "cam-7_a.1"
    for bad in (b"", b"x" * 65, b"a b", b"\xc3\xa9", b"<script>"):
        answer = shared_client.get("/gallery/x", headers={b"X-Request-ID": bad})
        assert len(answer.json()["request_id"]) == 32


def test_a_missing_field_is_reported_once(shared_client: httpx.Client) -> None:
    problem = assert_problem(shared_client.post("/gallery"), 422, "invalid_request")
    assert [fault["loc"] for fault in problem["errors"]] == [["body", "images"]]


def test_more_than_64_images_are_refused(shared_client: httpx.Client) -> None:
    answer = shared_client.post("/gallery", files=images(*[b"x"] * 65))
    assert "images" in assert_problem(answer, 422, "invalid_request")["detail"]
    assert_problem(shared_client.post("/gallery", files=images(*[b"x"] * 1001)), 422, "invalid_request")


def test_a_text_where_a_file_belongs_is_refused(shared_client: httpx.Client) -> None:
    assert_problem(shared_client.post("/gallery", files={"images": (None, "hello")}), 422, "invalid_request")
    assert_problem(shared_client.post("/gallery", json={"images": []}), 422, "invalid_request")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"garbage"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 1000, b"--b"),
        ("application/x-www-form-urlencoded", b"images=%ff%00&&&===;"),
        ("text/plain", b"images"),
        ("multipart/form-data; boundary=b; charset=nonsense", b"--b\r\n\xff\xff: \x00\r\n\r\n--b--"),
    ],
)
@pytest.mark.parametrize("path", ["/gallery", "/search", "/models"])
def test_a_body_that_is_no_form_is_refused(
    shared_client: httpx.Client, path: str, content_type: str, body: bytes
) -> None:
    answer = shared_client.post(path, content=body, headers={"Content-Type": content_type})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed_body", "invalid_request")


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "{}",
        "[]",
        "[{}]",
        "[{}, {}, {}]",
        "[1, 2]",
        "null",
        '[{"camera": "1"}, {}]',
        '[{"camera_id": 1}, {}]',
        '[{"captured_at": "2026-01-01"}, {}]',
        '[{"captured_at": 1700000000}, {}]',
        '[{"captured_at": "2026-01-01T00:00:00"}, {}]',
        '[{"captured_at": "0001-01-01T00:00:00+14:00"}, {}]',
        '[{"identity_id": "a\\u0000"}, {}]',
        '[{"identity_id": "\\ud800"}, {}]',
        "[" * 100_000,
        "[{}, NaN]",
    ],
)
def test_metadata_that_do_not_fit_are_refused(shared_client: httpx.Client, metadata: str) -> None:
    answer = shared_client.post("/gallery", files=images(crop(1), crop(2)), data={"metadata": metadata})
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"][0]["loc"][:2] == ["body", "metadata"]


def test_a_fault_in_metadata_names_its_position(shared_client: httpx.Client) -> None:
    metadata = json.dumps([{}, {"captured_at": "soon"}])
    answer = shared_client.post("/gallery", files=images(crop(1), crop(2)), data={"metadata": metadata})
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"][0]["loc"] == ["body", "metadata", 1, "captured_at"]
    assert "metadata.1.captured_at" in problem["detail"]


def test_metadata_beside_the_common_fields_are_refused(shared_client: httpx.Client) -> None:
    fields = {"metadata": "[{}]", "camera_id": "1"}
    answer = shared_client.post("/gallery", files=images(crop(1)), data=fields)
    assert "not both" in assert_problem(answer, 422, "invalid_request")["detail"]


@pytest.mark.parametrize(
    "captured_at",
    [
        "now",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "1700000000",
        "2026-02-30T00:00:00Z",
        "2026-01-01T25:00:00Z",
    ],
)
def test_a_time_that_is_not_rfc_3339_is_refused(shared_client: httpx.Client, captured_at: str) -> None:
    answer = shared_client.post("/gallery", files=images(crop(1)), data={"captured_at": captured_at})
    assert "captured_at" in assert_problem(answer, 422, "invalid_request")["detail"]


def test_blank_fields_count_as_absent(shared_client: httpx.Client) -> None:
    blank = {"identity_id": "", "camera_id": "", "captured_at": "", "track_id": "", "metadata": ""}
    (item,) = enroll(shared_client, crop(1), **blank)
    assert (item["camera_id"], item["captured_at"], item["track_id"]) == (None, None, None)
    assert item["identity_id"]


@pytest.fixture(scope="module")
def narrow_client(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    data_dir = tmp_path_factory.mktemp("narrow") / "data"
    with serve(
        make_settings(
            data_dir, max_upload_bytes=20_000, max_checkpoint_bytes=1_000_000, max_archive_bytes=1_000_000
        )
    ) as running:
        yield running


def test_an_image_of_too_many_bytes_is_refused_with_its_position(narrow_client: httpx.Client) -> None:
    answer = narrow_client.post("/gallery", files=images(crop(1), crop(1) + bytes(20_000)))
    assert assert_problem(answer, 413, "image_too_large")["position"] == 1


def test_a_body_that_says_it_is_too_long_is_refused_unread(narrow_client: httpx.Client) -> None:
    host, port = narrow_client.base_url.host, narrow_client.base_url.port
    with socket.create_connection((host, port or 80), timeout=10) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", ["/search", "/gallery", "/models"])
def test_a_body_that_does_not_say_how_long_it_is_is_cut_off(narrow_client: httpx.Client, path: str) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'
        for _ in range(60):
            yield bytes(64 * 1024)
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = narrow_client.post(path, content=endless(), headers=headers)
    assert_problem(answer, 413, "request_too_large")


def test_the_api_describes_its_forms_and_its_problems(shared_client: httpx.Client) -> None:
    schema = shared_client.get("/openapi.json").json()
    post = schema["paths"]["/gallery"]["post"]
    assert set(post["responses"]) == {
        *("200", "201", "202", "400", "401", "403", "409", "413", "415", "422", "429", "503", "507")
    }
    assert list(post["responses"]["415"]["content"]) == ["application/problem+json"]
    form = schema["components"]["schemas"]["Body_post_gallery"]["properties"]
    assert (form["images"]["type"], form["images"]["maxItems"]) == ("array", 64)
    assert "Problem" in schema["components"]["schemas"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]


def test_the_documentation_needs_no_other_host(shared_client: httpx.Client) -> None:
    page = shared_client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert name in page
        assert shared_client.get(f"/static-offline-docs/{name}").status_code == 200
