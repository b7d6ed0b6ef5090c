"""A8: forms with a thousand files are refused at the first one that is too much, and the rest is not read."""

from collections.abc import Iterator

import httpx
import pytest

from live_server import images

NUM_PARTS = 1000
NUM_IN_SOCKETS = 250
"""How many parts the buffers of two sockets may hold; a part has 64 KiB."""


class Parts:
    """A form of a thousand parts; `num_taken` says how many of them were sent."""

    def __init__(self, disposition: bytes) -> None:
        self._head = (
            b"--bound-0123456789abcdef\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n"
        )
        self.num_taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(NUM_PARTS):
            self.num_taken += 1
            yield self._head + bytes(64 * 1024) + b"\r\n"
        yield b"--bound-0123456789abcdef--\r\n"


FILE, FIELD = b'name="images"; filename="x.jpg"', b'name="camera_id"'


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a8"}])
@pytest.mark.parametrize(
    ("path", "disposition", "num_allowed", "detail"),
    [
        ("/gallery", FILE, 64, "images: the form has too many files; send at most 64"),
        ("/search", FILE, 16, "images: the form has too many files; send at most 16"),
        ("/models", FILE, 1, "images: the form has too many files; send at most 1 "),
        ("/gallery", FIELD, 16, "camera_id: the form has too many fields that are no files; send at most 16"),
    ],
)
def test_a_form_is_refused_at_the_first_part_that_is_too_much(
    shared_client: httpx.Client,
    path: str,
    disposition: bytes,
    num_allowed: int,
    detail: str,
    key: dict[str, str],
) -> None:
    parts = Parts(disposition)
    headers = {"Content-Type": "multipart/form-data; boundary=bound-0123456789abcdef", **key}
    answer = shared_client.post(path, content=iter(parts), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith(detail)
    assert answer.json()["errors"][0]["loc"][0] == "body"
    assert num_allowed < parts.num_taken < num_allowed + NUM_IN_SOCKETS
    assert shared_client.get("/gallery").status_code == 200


def test_as_many_files_as_one_request_may_have_are_read(shared_client: httpx.Client) -> None:
    answer = shared_client.post("/gallery", files=images(*[b"x"] * 64), data={"camera_id": "door"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unreadable_image")
    answer = shared_client.post(
        "/search", files=images(b"x"), data={"camera_id": [str(n) for n in range(900)]}
    )
    assert answer.status_code == 415
