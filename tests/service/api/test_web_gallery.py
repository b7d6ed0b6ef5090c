"""The section Gallery of the page: crops are browsed, selected, edited, deleted, and their people erased."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from live_server import crop, enroll
from opened_page import Opened, open_page, press, select, share_page, tile, tiles, undo

SEEDS = itertools.count(10_000)


@pytest.fixture(scope="module")
def opened(browser: Browser, shared_client: httpx.Client) -> Iterator[Opened]:
    """Open a section of the page of the shared service."""
    with share_page(browser, str(shared_client.base_url)) as opened:
        yield opened


@pytest.fixture
def ids(shared_client: httpx.Client, request: pytest.FixtureRequest) -> list[str]:
    """The ids of three new crops of a camera with the name of the test, of the people a, b and b."""
    name = request.node.name
    found = []
    for i, person in enumerate("abb"):
        at = f"2026-03-0{i + 1}T12:00:00Z"
        fields = {"identity_id": f"{name} {person}", "camera_id": name, "captured_at": at}
        found += enroll(shared_client, crop(next(SEEDS)), **fields)
    return [item["id"] for item in found]


def test_a_long_gallery_grows_as_it_is_scrolled(opened: Opened, shared_client: httpx.Client) -> None:
    for first in (0, 60):
        enroll(shared_client, *(crop(1000 + first + i) for i in range(60)), camera_id="long")
    with opened("gallery?camera_id=long") as page:
        expect(tiles(page)).to_have_count(60)
        page.mouse.wheel(0, 20_000)
        expect(tiles(page)).to_have_count(120)
        expect(page.get_by_text("120 crops, and no more.")).to_be_visible()
        listed = shared_client.get("/gallery", params={"camera_id": "long", "limit": 1000}).json()["items"]
        shown = page.locator("#gallery [data-item]").evaluate_all("all => all.map(a => a.dataset.item)")
        assert shown == [item["id"] for item in listed]


@pytest.mark.usefixtures("ids")
def test_filters_stand_in_the_address(opened: Opened, request: pytest.FixtureRequest) -> None:
    camera = request.node.name
    with opened("gallery") as page:
        fields = page.locator("#gallery-form")
        if not fields.get_by_label("Camera").is_visible():  # they stay open once used
            page.get_by_text("Filter the crops").click()
        expect(page.locator("#gallery [data-part=numbers]")).to_contain_text(
            re.compile(r"\d+ crops of \d+ people")
        )
        fields.get_by_label("Camera").focus()
        option = page.locator(f"#camera-names option[value='{camera}']")
        expect(option).to_have_attribute("label", f"{camera} (3 crops)")
        fields.get_by_label("Camera").fill(camera)
        fields.get_by_label("Seen from").fill("2026-03-02T13:00:00")  # Vienna is an hour ahead of UTC
        press(page, "Show")
        expect(tiles(page)).to_have_count(2)
        page.reload()
        expect(tiles(page)).to_have_count(2)
        expect(fields.get_by_label("Seen from")).to_have_value("2026-03-02T13:00")
        fields.get_by_label("Person, by").fill("nobody at all")
        press(page, "Show")
        expect(page.get_by_text("No crop passes these filters.")).to_be_visible()
        page.go_back()
        expect(tiles(page)).to_have_count(2)
        expect(fields.get_by_label("Person, by")).to_have_value("")
        fields.get_by_role("link", name="Show all crops").click()
        expect(tiles(page)).not_to_have_count(2)
        expect(page).to_have_url(re.compile("#gallery$"))


def test_crops_are_edited_by_keyboard_and_the_change_is_taken_back(
    opened: Opened, ids: list[str], request: pytest.FixtureRequest, shared_client: httpx.Client
) -> None:
    name = request.node.name
    with opened(f"gallery?camera_id={name}") as page:
        box = tile(page, ids[0]).get_by_role("checkbox", name=re.compile(f"camera .{name}.*{name} a"))
        box.focus()
        page.keyboard.press("Space")
        tile(page, ids[2]).get_by_role("checkbox").click(modifiers=["Shift"])
        expect(page.locator("#gallery .bar")).to_contain_text("3 crops selected")
        page.get_by_role("button", name="Edit…").focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Edit 3 crops")
        expect(dialog.get_by_label("Person")).to_be_focused()
        expect(dialog.get_by_label("Camera")).to_have_value(name)
        dialog.get_by_label("Person").fill(f"{name} c")
        dialog.get_by_label("Track").fill("17")
        page.keyboard.press("Enter")
        expect(page.locator("#done")).to_contain_text("3 crops changed.")
        expect(dialog).to_be_hidden()
        expect(page.locator("#gallery .bar")).to_be_hidden()
        expect(tile(page, ids[0]).locator("bdi").first).to_have_text(f"{name} c")
        items = [shared_client.get(f"/gallery/{one}").json() for one in ids]
        assert {(one["identity_id"], one["track_id"], one["camera_id"]) for one in items} == {
            (f"{name} c", "17", name)
        }
        shared_client.patch(f"/gallery/{ids[1]}", json={"track_id": "of somebody else"})
        undo(page)
        expect(tile(page, ids[0]).locator("bdi").first).to_have_text(f"{name} a")
        items = [shared_client.get(f"/gallery/{one}").json() for one in ids]
        people = [f"{name} a", f"{name} b", f"{name} b"]
        tracks = [None, "of somebody else", None]
        assert [(one["identity_id"], one["track_id"]) for one in items] == list(
            zip(people, tracks, strict=True)
        )


def test_what_cannot_be_stored_stays_in_the_dialog_with_the_reason(
    opened: Opened, ids: list[str], request: pytest.FixtureRequest
) -> None:
    with opened(f"gallery?camera_id={request.node.name}") as page:
        select(page, ids[0])
        press(page, "Edit…")
        page.locator("#question").get_by_label("Person").fill("suggestions")
        press(page, "Save")
        alert = page.locator("#question").get_by_role("alert")
        expect(alert).to_contain_text("choose another")
        page.locator("#question").get_by_label("Person").fill("fine")
        expect(alert).to_have_count(0)
        press(page, "Save")
        expect(page.locator("#done")).to_contain_text("1 crop changed.")


def test_a_deletion_says_what_it_takes_and_does_it_only_then(
    opened: Opened, ids: list[str], request: pytest.FixtureRequest, shared_client: httpx.Client
) -> None:
    with opened(f"gallery?camera_id={request.node.name}") as page:
        select(page, *ids[:2])
        press(page, "Delete…")
        dialog = page.get_by_role("dialog", name="Delete 2 crops?")
        expect(dialog).to_contain_text("Nothing can take this back.")
        expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        assert shared_client.get(f"/gallery/{ids[0]}").status_code == 200
        shared_client.delete(f"/gallery/{ids[1]}")  # somebody else was faster, which is as well
        press(page, "Delete…")
        press(page, "Delete 2 crops")
        expect(page.locator("#done")).to_contain_text("2 crops deleted.")
        expect(page.locator("#done").get_by_role("button", name="Undo")).to_have_count(0)
        expect(tiles(page)).to_have_count(1)
        assert [shared_client.get(f"/gallery/{one}").status_code for one in ids] == [404, 404, 200]


def test_as_many_crops_are_deleted_as_were_told_or_none(
    opened: Opened, ids: list[str], request: pytest.FixtureRequest, shared_client: httpx.Client
) -> None:
    camera = request.node.name
    with opened(f"gallery?camera_id={camera}") as page:
        press(page, "Delete all that pass the filters…")
        expect(page.get_by_role("dialog")).to_contain_text("Delete all 3 crops")
        enroll(shared_client, crop(77), camera_id=camera)
        press(page, "Delete 3 crops")
        expect(page.get_by_role("alert")).to_contain_text("The filters let 4 crops through now.")
        press(page, "Cancel")
        expect(tiles(page)).to_have_count(4)
        press(page, "Delete all that pass the filters…")
        press(page, "Delete 4 crops")
        expect(page.get_by_text("No crop passes these filters.")).to_be_visible()
        assert shared_client.get("/gallery", params={"camera_id": camera}).json()["items"] == []
        assert [shared_client.get(f"/gallery/{one}").status_code for one in ids] == [404] * 3


def test_people_are_erased_with_a_receipt_that_can_be_kept(
    opened: Opened, ids: list[str], request: pytest.FixtureRequest, shared_client: httpx.Client
) -> None:
    with opened(f"gallery?camera_id={request.node.name}") as page:
        select(page, *ids[:2])
        press(page, "Erase their people…")
        dialog = page.get_by_role("dialog", name="Erase 2 people for good?")
        expect(dialog).to_contain_text("2 people with 3 crops, also the crops that are not selected")
        press(page, "Erase 2 people with 3 crops")
        receipts = page.get_by_role("dialog", name="Erased")
        expect(receipts.locator("li strong")).to_have_count(2)
        with page.expect_download() as download:
            receipts.get_by_role("link", name="Download").click()
        kept = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        assert kept == shared_client.get("/erasures?limit=1000").json()["erasures"][-2:]
        press(page, "Close")
        expect(page.get_by_text("No crop passes these filters.")).to_be_visible()
        page.goto(f"{shared_client.base_url}/#history")
        expect(page.locator("#history [data-part=receipts] strong").last).to_have_text(
            f"Receipt {kept[-1]['sequence']}"
        )


def test_a_crop_is_seen_large_and_its_neighbours_by_keyboard(
    opened: Opened, ids: list[str], request: pytest.FixtureRequest
) -> None:
    with opened(f"gallery?camera_id={request.node.name}") as page:
        link = tile(page, ids[0]).get_by_role("link", name=re.compile("Show large: camera .*Mar 1, 2026"))
        link.focus()
        page.keyboard.press("Enter")
        image = page.locator("#crop img")
        expect(image).to_have_attribute("src", f"gallery/{ids[0]}/image")
        expect(image).to_have_js_property("naturalWidth", 64)
        page.keyboard.press("j")
        expect(image).to_have_attribute("src", f"gallery/{ids[1]}/image")
        page.reload()
        expect(image).to_have_attribute("src", f"gallery/{ids[1]}/image")
        expect(page.get_by_role("button", name="Next")).to_be_enabled()
        page.keyboard.press("ArrowRight")
        expect(image).to_have_attribute("src", f"gallery/{ids[2]}/image")
        expect(page.get_by_role("button", name="Next")).to_be_disabled()
        page.keyboard.press("Escape")
        expect(page.locator("#crop")).to_be_hidden()
        expect(page).not_to_have_url(re.compile("item="))
        expect(tiles(page)).to_have_count(3)


@pytest.mark.usefixtures("ids")
def test_a_service_that_is_gone_is_told_until_it_is_back(
    browser: Browser, shared_client: httpx.Client
) -> None:
    with open_page(browser, str(shared_client.base_url), "search") as page:
        page.clock.install()
        page.context.set_offline(True)
        page.locator("nav a[href='#gallery']").click()
        alert = page.locator("#gallery").get_by_role("alert")
        expect(alert).to_contain_text("cannot be reached")
        page.clock.run_for(6_000)
        expect(page.locator("#status")).to_have_class("failed")
        page.context.set_offline(False)
        page.clock.run_for(2_000)
        expect(tiles(page).first).to_be_visible()
        expect(alert).to_have_count(0)
