"""Q: a request that holds the right thing in the wrong form is told what form the service takes."""

import json

import httpx
import pytest

from archives import tar_of
from live_server import crop


def detail_of(answer: httpx.Response) -> str:
    assert answer.status_code == 422
    assert "Value error" not in answer.text
    detail: str = answer.json()["detail"]
    return detail


@pytest.mark.parametrize("path", ["/gallery", "/search", "/verify"])
@pytest.mark.parametrize("kind", ["image/jpeg", "application/x-www-form-urlencoded", "application/json"])
def test_q_a_body_that_is_no_form_is_named(shared_client: httpx.Client, path: str, kind: str) -> None:
    body = json.dumps({"images": ["x"]}).encode() if kind == "application/json" else crop(1)
    answer = shared_client.post(path, content=body, headers={"content-type": kind})
    assert detail_of(answer) == f"the body is {kind}; send its fields as a form, multipart/form-data"


def test_q_a_name_of_a_file_in_place_of_the_file_is_told(shared_client: httpx.Client) -> None:
    answer = shared_client.post("/search", files={"images": (None, "crop.jpg")})
    assert "a text was sent and not a file; with curl write -F images=@crop.jpg" in detail_of(answer)


def test_q_json_is_taken_where_json_is_expected(shared_client: httpx.Client) -> None:
    assert shared_client.post("/identities/nobody/merge", json={}).status_code in (404, 422)
    assert "multipart" not in shared_client.post("/identities/nobody/merge", json={}).text


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("1767225600", "captured_at: expected an RFC 3339 time with an offset, such as"),
        ("1767225600000", "captured_at: expected an RFC 3339 time with an offset, such as"),
        ("31.01.2026 08:15", "captured_at: expected an RFC 3339 time with an offset, such as"),
        ("2026-01-31T08:15:00", "captured_at: the time has no offset; end it with Z"),
        ("2026-01-31T24:00:00Z", "captured_at: there is no such time: hour must be in 0..23"),
    ],
)
def test_q_a_time_is_refused_in_the_same_words_in_a_form_and_in_an_archive(
    client: httpx.Client, time: str, reason: str
) -> None:
    files = {"images": ("a.jpg", crop(1))}
    assert detail_of(client.post("/gallery", files=files, data={"captured_at": time})).startswith(reason)
    rows = f"path,captured_at\na.jpg,{time}\n".encode()
    archive = {"archive": ("a.tar", tar_of({"gallery.csv": rows, "a.jpg": crop(1)}))}
    job = client.post("/gallery", files=archive).json()
    assert [
        error["detail"][: len(reason)] for error in client.get(f"/jobs/{job['id']}").json()["errors"]
    ] == [reason]


def test_q_an_offset_of_quarters_of_an_hour_is_kept_true(client: httpx.Client) -> None:
    fields = {"captured_at": "2026-01-31T08:15:00+05:45"}
    answer = client.post("/gallery", files={"images": ("a.jpg", crop(1))}, data=fields)
    assert answer.json()["items"][0]["captured_at"] == "2026-01-31T02:30:00Z"


def test_q_a_body_with_very_many_fields_is_refused_at_once(shared_client: httpx.Client) -> None:
    body = {"source_ids": ["bert"]} | {f"field-{i}": 1 for i in range(60_000)}
    answer = shared_client.post("/identities/nobody/merge", json=body)
    assert "there are 60,001 fields, more than any request has" in detail_of(answer)
    assert len(answer.json()["errors"]) == 1
