"""F8 and Q: pictures that phones and programs write, and that were refused without need."""

from collections.abc import Iterator

import httpx
import pytest

from hostile_pictures import flat_png
from live_server import TIMEOUT_S, enroll, images, serve
from model.data.images import Limits
from pictures import FORMS
from service.settings import Settings
from service.uploads.requests import decode

LIMITS = Limits(max_upload_bytes=10 << 20, max_pixels=4_000_000, min_side=16)


@pytest.fixture
def data_client(settings: Settings) -> Iterator[httpx.Client]:
    with serve(settings) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "kind"), [("phone.jpg", "jpeg"), ("no-end.jpg", "jpeg"), ("big-text.png", "png")]
)
def test_the_content_type_is_that_of_the_first_picture(name: str, kind: str) -> None:
    assert decode(FORMS[name](), LIMITS)[1].content_type == f"image/{kind}"


def test_they_are_enrolled_and_shown(data_client: httpx.Client) -> None:
    names = ("phone.jpg", "no-end.jpg", "big-text.png", "exif-6.jpg")
    items = enroll(data_client, *(FORMS[name]() for name in names))
    assert [(item["width"], item["height"]) for item in items] == [(64, 128)] * 3 + [(128, 64)]
    for item in items:
        assert data_client.get(f"/gallery/{item['id']}/thumbnail").status_code == httpx.codes.OK


def test_a_large_crop_that_is_stored_stays_readable(settings: Settings) -> None:
    frame = flat_png(2001, 2000, 8, 0)
    with serve(settings.model_copy(update={"max_pixels": 40_000_000})) as client:
        (item,) = enroll(client, frame, camera_id="door")
    with serve(settings) as client:
        assert client.post("/search", files=images(frame)).status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        shown = client.get(f"/gallery/{item['id']}/thumbnail", timeout=TIMEOUT_S)
        assert shown.status_code == httpx.codes.OK
