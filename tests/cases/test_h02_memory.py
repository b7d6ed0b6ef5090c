"""H2: the memory of a picture is known from its header, and one budget bounds it for all requests."""

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from hostile_pictures import exif_of_large_fields, flat_png, jpeg_of_scans, text_bomb, webp_of_groups
from live_server import crop, encode, enroll, images, person, serve
from model.data.images import Limits
from pictures import chunk, exif_of, png_of, run_length_bmp
from service.errors import DecodingBusy, UnreadableImage
from service.settings import MEBIBYTE, Settings
from service.store.decoding import DecodingBudget
from service.uploads.requests import decode

LIMITS = Limits(max_upload_bytes=10 << 20, max_pixels=4_000_000, min_side=16)
APART = Path(__file__).parent.parent / "support" / "decoded_apart.py"
SIDE = 1000

COSTLY: dict[str, Callable[[], bytes]] = {
    "grey-16.png": lambda: flat_png(SIDE, SIDE, 16, 0),
    "grey-16-colour.png": lambda: flat_png(SIDE, SIDE, 16, 0, chunk(b"tRNS", b"\0\0")),
    "grey-alpha.png": lambda: flat_png(SIDE, SIDE, 8, 4),
    "palette.png": lambda: flat_png(
        SIDE, SIDE, 8, 3, chunk(b"PLTE", bytes(range(256)) * 3), chunk(b"tRNS", bytes(range(256)))
    ),
    "rgba-16.png": lambda: flat_png(SIDE, SIDE, 16, 6),
    "interlaced.png": lambda: png_of(SIDE, SIDE, 16, 6, bytes(9_000_000), interlaced=True),
    "tall.png": lambda: flat_png(16, 62_500, 8, 2),
    "wide.png": lambda: flat_png(62_500, 16, 8, 6),
    "turned.png": lambda: flat_png(SIDE, SIDE, 8, 2, chunk(b"eXIf", exif_of(6).tobytes()[6:])),
    "scans.jpg": lambda: jpeg_of_scans(SIDE, SIDE, 100),
    "restarts.jpg": lambda: jpeg_of_scans(SIDE, SIDE, 100, restart_interval=1),
    "cmyk.jpg": lambda: encode(
        person(1).convert("CMYK").resize((SIDE, SIDE)), "JPEG", progressive=True, quality=90
    ),
    "no-end.jpg": lambda: encode(person(1).resize((SIDE, SIDE)), "JPEG", progressive=True)[:-2],
    "lossy.webp": lambda: encode(person(1).resize((SIDE, SIDE)), "WEBP", method=0),
    "groups.webp": lambda: webp_of_groups(SIDE, SIDE),
    "run-lengths.bmp": lambda: run_length_bmp(SIDE, SIDE, b"\1\1\0\0" * SIDE + b"\0\1"),
    "exif.jpg": lambda: encode(person(1), "JPEG", exif=exif_of_large_fields(2_000, 30_000)),
    "text.png": lambda: text_bomb(b"zTXt", b"Comment", 100 * MEBIBYTE),
    "profile.png": lambda: text_bomb(b"iCCP", b"ICC", 100 * MEBIBYTE),
    "xmp.png": lambda: text_bomb(b"iTXt", b"XML:com.adobe.xmp", 100 * MEBIBYTE),
}
"""Pictures that need much memory for their bytes, or would need it in a decoder that reads all of them."""


def test_no_picture_takes_more_memory_than_its_header_says(tmp_path: Path) -> None:
    for name, make in COSTLY.items():
        (tmp_path / name).write_bytes(make())
    paths = [str(tmp_path / name) for name in COSTLY]
    command = [sys.executable, str(APART), "4000000", *paths]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = dict(zip(COSTLY, map(json.loads, lines), strict=True))
    slack = 2 * MEBIBYTE  # code of Pillow that is loaded on its first use
    too_much = {
        name: (one["used_bytes"], one["claimed_bytes"])
        for name, one in found.items()
        if one["used_bytes"] > one["claimed_bytes"] + slack
    }
    assert too_much == {}
    assert {one["refusal"] for one in found.values()} == {""}


def test_a_lack_of_memory_is_not_the_fault_of_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    path.write_bytes(jpeg_of_scans(2000, 2000, 3))
    code = (
        "import resource, sys; from model.data.images import *; from model.errors import OutOfMemory\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        f"most = pages * {resource.getpagesize()} + 20 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "try: decode(data, STORED)\n"
        "except OutOfMemory as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert ran.stdout.startswith("no memory to decode an image")


def test_claims_wait_and_then_give_up() -> None:
    budget = DecodingBudget(100)
    with budget.claim(60), budget.claim(40):
        with pytest.raises(DecodingBusy), budget.claim(1, timeout_s=0.01):
            pass
        assert budget.bytes_in_flight == 100
    assert budget.bytes_in_flight == 0


def test_a_claim_is_granted_once_there_is_room() -> None:
    budget = DecodingBudget(100)
    granted = threading.Event()

    def claim() -> None:
        with budget.claim(50, timeout_s=60):
            granted.set()

    with budget.claim(80):
        thread = threading.Thread(target=claim)
        thread.start()
        assert not granted.wait(0.05)
    assert granted.wait(60)
    thread.join()


def test_a_claim_above_the_limit_runs_alone() -> None:
    budget = DecodingBudget(100)
    with budget.claim(1_000), pytest.raises(DecodingBusy), budget.claim(1, timeout_s=0):
        pass
    with budget.claim(1), pytest.raises(DecodingBusy), budget.claim(1_000, timeout_s=0):
        pass


def test_counted_bytes_hold_back_claims_and_never_wait() -> None:
    budget = DecodingBudget(100)
    with budget.claim(100), budget.count(500):
        assert budget.bytes_in_flight == 600
    with budget.count(100), pytest.raises(DecodingBusy), budget.claim(1, timeout_s=0):
        pass


def test_a_memory_error_within_a_claim_is_decoding_busy() -> None:
    budget = DecodingBudget(100)
    with pytest.raises(DecodingBusy), budget.claim(10):
        raise MemoryError
    assert budget.bytes_in_flight == 0


def test_a_torn_picture_is_still_its_own_fault() -> None:
    with pytest.raises(UnreadableImage):
        decode(crop(1)[:-500], LIMITS)


@pytest.fixture(scope="module")
def busy_client(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    """A service whose budget is 1 MiB, so that pictures are decoded one at a time."""
    settings = make_settings(tmp_path_factory.mktemp("busy") / "data", max_decoding_bytes=MEBIBYTE)
    with serve(settings) as client:
        yield client


def test_searches_above_the_budget_are_answered_one_at_a_time(busy_client: httpx.Client) -> None:
    enroll(busy_client, crop(1), camera_id="door")
    hostile = flat_png(SIDE, SIDE, 16, 0)
    statuses = []

    def search() -> None:
        answer = busy_client.post("/search", files=images(hostile))
        assert answer.status_code == 200 or answer.json()["code"] == "decoding_busy"
        assert answer.status_code == 200 or answer.headers["retry-after"] == "1"
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=search) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 6
    assert set(statuses) <= {200, 503}
    assert 200 in statuses


def test_a_picture_above_4_million_pixels_is_refused_by_default(busy_client: httpx.Client) -> None:
    answer = busy_client.post("/search", files=images(flat_png(2001, 2000, 8, 0)))
    assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
    assert "4,000,000" in answer.json()["detail"]
