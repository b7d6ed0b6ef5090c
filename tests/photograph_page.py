"""Photograph the page: ``PYTHONPATH=tests:tests/support python tests/photograph_page.py``.

The pictures in `docs/images` show the drawn people, as the network that ships sees them. They need Chromium.
"""

import csv
import tempfile
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, expect

import draw_people
from chromium import run_chromium
from live_server import encode, enroll, serve
from opened_page import open_page, tiles
from service.settings import Settings

FOLDER = Path(__file__).parents[1] / "docs" / "images"
SECTIONS = {"gallery": "gallery", "person": "person?id=person-2", "review": "review"}
SIZE = {"width": 1120, "height": 760}


def fill(client: httpx.Client, folder: Path) -> None:
    """Enrol the drawn people, two of them also under other names, name some, and correct one."""
    draw_people.main(folder)
    with (folder / "gallery.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            enroll(client, (folder / row.pop("path")).read_bytes(), **row)
    for person, hour in ((2, 10), (5, 11)):
        again = encode(draw_people.draw_person(person, 11), quality=95)
        at = f"2026-03-01T{hour}:30:00Z"
        enroll(client, again, identity_id=f"visitor-{person}", camera_id="yard", captured_at=at)
    for minute in (0, 2, 4):
        again = encode(draw_people.draw_person(2, 20 + minute), quality=95)
        enroll(
            client,
            again,
            identity_id="person-2",
            camera_id="door",
            captured_at=f"2026-03-01T10:0{minute}:00Z",
        )
    description = {"name": "Anna Berger", "notes": "Works at the front desk.", "attributes": {"coat": "blue"}}
    client.patch("/identities/person-2", json=description).raise_for_status()
    client.patch("/identities/person-5", json={"name": "Luca Rossi"}).raise_for_status()
    merged = client.post("/identities/person-2/merge", json={"source_ids": ["visitor-2"]}).json()
    client.post(f"/operations/{merged['operation_id']}/undo").raise_for_status()


def photograph(page: Page, name: str) -> None:
    """Write the picture of a section, once all its crops are there."""
    page.locator(".notice").evaluate("notice => { notice.hidden = true; }")
    if name == "gallery":
        for i in (3, 4):
            tiles(page).nth(i).get_by_role("checkbox").check()
    page.wait_for_load_state("networkidle")
    expect(page.locator("section:visible img:visible").first).to_have_js_property("complete", True)
    taken = Image.open(BytesIO(page.screenshot(full_page=name == "person")))
    small = taken.convert("RGB")
    small = small.quantize(palette=small.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
    small.save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with serve(Settings(data_dir=folder / "data")) as client, run_chromium() as browser:
            fill(client, folder / "people")
            for name, section in SECTIONS.items():
                url = str(client.base_url)
                with open_page(browser, url, section, viewport=SIZE, device_scale_factor=1.25) as page:
                    photograph(page, name)


if __name__ == "__main__":
    main()
