"""Forms that would hold the event loop, or memory for ever, whatever the route does with them."""

import codecs
import encodings

import httpx
import pytest

from live_server import crop, images

FORM_ROUTES = ("/gallery", "/search", "/verify", "/models")


@pytest.mark.parametrize("path", FORM_ROUTES)
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "one"}], ids=["plain", "with a key"])
def test_q_a_url_encoded_form_is_refused_unread(
    shared_client: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    answer = shared_client.post(path, content=b"identity_id=anna", headers=headers | kind)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"] == (
        "the body is application/x-www-form-urlencoded; send its fields as a form, multipart/form-data"
    )


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "undefined", "unicode_escape", "utf-7", "utf-16", ""]
)
def test_q_a_form_in_another_encoding_than_utf_8_is_refused(
    shared_client: httpx.Client, charset: str
) -> None:
    answer = send(shared_client, f'; charset="{charset}"')
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"] == "the form is not in UTF-8; leave out charset in Content-Type"


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=UTF-8", "; charset=us-ascii"])
def test_q_a_form_in_an_ordinary_encoding_is_read(shared_client: httpx.Client, charset: str) -> None:
    assert send(shared_client, charset).status_code == 200


def test_q_the_name_of_an_unknown_encoding_is_not_kept(shared_client: httpx.Client) -> None:
    name = "x" * 10_000
    assert send(shared_client, f"; charset={name}").status_code == 422
    assert name not in encodings._cache
    with pytest.raises(LookupError):
        codecs.lookup(name)
    assert name in encodings._cache


def send(client: httpx.Client, charset: str) -> httpx.Response:
    request = client.build_request("POST", "/search", files=images(crop(1)))
    request.headers["Content-Type"] += charset
    return client.send(request)
