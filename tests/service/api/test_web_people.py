"""The section People of the page: who was seen where and when, and what two people correct there."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from keyed import as_key, make_key
from live_server import crop, enroll, serve
from opened_page import Opened, press, select, share_page, tile, tiles, undo
from service.settings import Settings

SEEDS = itertools.count(20_000)
NOON = "2026-03-01T12:00:00Z"


class Shift(NamedTuple):
    """A service with keys, a client of its admin, and the pages of Maria and of José, who are operators."""

    client: httpx.Client
    maria: Opened
    jose: Opened
    admin: Opened

    def put(self, identity_id: str, *seeds: int, camera: str = "door", **fields: str) -> list[str]:
        """Enrol crops of a person, and return the ids of the items."""
        contents = [crop(seed, variant) for variant, seed in enumerate(seeds)]
        items = enroll(self.client, *contents, identity_id=identity_id, camera_id=camera, **fields)
        return [item["id"] for item in items]

    def get(self, path: str) -> Any:
        """Return the JSON of an answer."""
        return self.client.get(path).json()


@pytest.fixture(scope="module")
def shift(
    browser: Browser, make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shift]:
    settings = make_settings(tmp_path_factory.mktemp("people") / "data")
    roles = {"Maria": "operator", "José": "operator", "Ada": "admin"}
    with serve(settings) as client, ExitStack() as stack:
        keys = {name: make_key(settings, role, name) for name, role in roles.items()}
        admin = stack.enter_context(as_key(client, keys["Ada"]))
        url = str(client.base_url)
        yield Shift(admin, *(stack.enter_context(share_page(browser, url, key)) for key in keys.values()))


def test_a_person_is_found_by_name_and_their_page_tells_where_and_when(shift: Shift) -> None:
    shift.put("lane", next(SEEDS), camera="door", captured_at=NOON)
    (hall,) = shift.put("lane", next(SEEDS), camera="hall", captured_at="2026-03-01T13:00:00Z")
    shift.put("lane", next(SEEDS), camera="door", captured_at="2026-03-01T14:00:00Z")
    shift.put("lane", next(SEEDS), camera="door")
    shift.client.patch(
        "/identities/lane", json={"name": "Lena Lane", "notes": "Red\ncoat", "attributes": {"a": "b"}}
    )
    with shift.maria("people") as page:
        page.locator("#people-form").get_by_label("Name").fill("ena la")
        page.locator("#people-form").get_by_label("Seen by camera").fill("hall")
        press(page, "Find")
        expect(tiles(page)).to_have_count(1)
        expect(tiles(page).locator("img")).to_have_js_property("complete", True)
        page.get_by_role("link", name="Lena Lane").click()
        heading = page.get_by_role("heading", name="Lena Lane")
        expect(heading).to_be_focused()
        expect(page).to_have_title("Lena Lane · reid-gallery")
        expect(page.locator("#person dl")).to_contain_text("Red\ncoat")
        lanes = page.locator(".lanes .lane-name")
        expect(lanes).to_have_text(["door 2 visits, 2 crops", "hall 1 visit, 1 crop"])
        expect(page.locator(".lanes .visit")).to_have_count(3)
        places = page.locator(".lanes .visit").evaluate_all("all => all.map(one => one.getAttribute('x1'))")
        assert places == ["2.000%", "98.000%", "50.000%"]
        expect(page.get_by_text("1 crop without a time.")).to_be_visible()
        expect(tiles(page)).to_have_count(4)
        page.locator(".lanes svg").last.click()  # in the middle, where the visit is
        expect(page.locator("#crop img")).to_have_attribute("src", f"gallery/{hall}/image")
        page.go_back()
        expect(page.locator("#crop")).to_be_hidden()
        page.get_by_text("Each visit").click()
        expect(page.locator("#person .visits li")).to_have_count(3)
        page.reload()
        expect(heading).to_be_visible()


def test_a_section_whose_module_comes_late_is_shown_all_the_same(shift: Shift) -> None:
    shift.put("late", next(SEEDS))
    held: list[Route] = []
    with shift.maria("person?id=late") as page:
        page.route("**/web/person.js", lambda route: held.append(route))
        page.reload(wait_until="commit")
        expect(page.locator("#status")).to_have_class("ready")
        (route,) = held
        route.continue_()
        expect(tiles(page)).to_have_count(1)
        page.unroute_all()


def test_a_person_is_renamed_and_described(shift: Shift) -> None:
    shift.put("plain", next(SEEDS))
    with shift.maria("person?id=plain") as page:
        press(page, "Rename, describe…")
        dialog = page.get_by_role("dialog", name="Describe this person")
        dialog.get_by_label("Name").fill("Berta")
        dialog.get_by_label("Attributes").fill("coat")
        press(page, "Save")
        expect(dialog.get_by_role("alert")).to_contain_text("“coat” is no attribute")
        dialog.get_by_label("Attributes").fill("coat=red=ish\n hat = none ")
        expect(dialog.get_by_role("alert")).to_have_count(0)
        press(page, "Save")
        expect(page.get_by_role("heading", name="Berta")).to_be_visible()
        expect(page.get_by_role("button", name="Rename, describe…")).to_be_focused()
        known = shift.get("/identities/plain")
        assert (known["name"], known["attributes"]) == ("Berta", {"coat": "red=ish", "hat": "none"})
        undo(page)
        expect(page.get_by_role("heading", name="plain")).to_be_visible()
        assert shift.get("/identities/plain")["attributes"] == {}


def test_what_somebody_else_has_described_meanwhile_is_kept(shift: Shift) -> None:
    shift.put("busy", next(SEEDS))
    with shift.maria("person?id=busy") as page:
        press(page, "Rename, describe…")
        shift.client.patch("/identities/busy", json={"notes": "of José"})
        page.locator("#question").get_by_label("Name").fill("Bea")
        press(page, "Save")
        expect(page.get_by_role("heading", name="Bea")).to_be_visible()
        known = shift.get("/identities/busy")
        assert (known["name"], known["notes"]) == ("Bea", "of José")
        shift.client.patch("/identities/busy", json={"name": "Beate"})
        page.locator("#done").get_by_role("button", name="Undo").click()
        expect(page.locator("#done").get_by_role("alert")).to_contain_text(
            "Somebody else has described the person"
        )
        expect(page.get_by_role("heading", name="Beate")).to_be_visible()


def test_a_merge_is_undone_and_the_history_says_who_and_when(shift: Shift) -> None:
    shift.put("one", next(SEEDS), next(SEEDS))
    shift.put("two", next(SEEDS))
    shift.client.patch("/identities/two", json={"name": "Zwei"})
    with shift.maria("person?id=one") as page:
        press(page, "Merge into another…")
        field = page.locator("#question").get_by_label("The other person")
        field.press_sequentially("Zw")
        expect(page.locator("#question datalist option")).to_have_attribute("value", "two")
        field.fill("nobody")
        press(page, "Merge")
        expect(page.locator("#question").get_by_role("alert")).to_contain_text("not in the gallery any more")
        field.fill("one")
        press(page, "Merge")
        expect(page.locator("#question").get_by_role("alert")).to_contain_text("Choose another person.")
        field.fill("two")
        press(page, "Merge")
        expect(page).to_have_url(re.compile("#person[?]id=two$"))
        expect(page.locator("#done")).to_contain_text("one was merged into Zwei.")
        expect(tiles(page)).to_have_count(3)
        entry = page.locator("#person .corrections li")
        expect(entry).to_contain_text(re.compile(r"Maria merged one into two: 2 crops\. \w{3} \d+, 20\d\d"))
        entry.get_by_role("button", name="Undo").click()
        expect(entry).to_contain_text("Taken back by Maria")
        expect(tiles(page)).to_have_count(1)
        assert shift.get("/identities/one")["num_items"] == 2


def test_crops_are_split_off_or_said_to_be_somebody_else(shift: Shift) -> None:
    ids = shift.put("mixed", *(next(SEEDS) for _ in range(4)))
    with shift.maria("person?id=mixed") as page:
        select(page, *ids[:2])
        press(page, "Split off…")
        page.locator("#question").get_by_label("Who gets them").fill("other")
        press(page, "Split off")
        expect(page.locator("#done")).to_contain_text("2 crops split off mixed.")
        expect(tiles(page)).to_have_count(2)
        assert shift.get("/identities/other")["num_items"] == 2
        undo(page)
        expect(tiles(page)).to_have_count(4)
        select(page, ids[3])
        press(page, "Not this person…")
        expect(page.get_by_role("dialog")).to_contain_text("never takes them for this person again")
        press(page, "Not the same person")
        expect(tile(page, ids[3])).to_have_count(0)
        page.goto(f"{shift.client.base_url}#history")
        newest = page.locator("#history .corrections > li").first
        expect(newest).to_contain_text("Maria said that 1 crop does not show mixed")
        newest.get_by_role("button", name="Undo").click()
        expect(newest).to_contain_text("Taken back by Maria")
        assert shift.get("/identities/mixed")["num_items"] == 4


def test_suggestions_are_reviewed_by_keyboard_alone(shift: Shift) -> None:
    seed = next(SEEDS)
    shift.put("kept", seed, seed, seed)
    for i in range(3):
        enroll(shift.client, crop(seed, 10 + i), identity_id=f"like {i}", camera_id="door")

    def first() -> set[str]:
        pairs = shift.get("/identities/suggestions?of=kept")["suggestions"]
        return {one["identity_id"] for one in pairs[0]["identities"]}

    with shift.maria("review?of=kept") as page:
        names = page.locator("#review .pair h3")
        shown = first()
        (merged,) = shown - {"kept"}
        expect(names).to_have_text(["kept", merged])
        expect(page.locator("#review [data-part=takes]")).to_contain_text(f"gives 1 crop of {merged} to kept")
        page.keyboard.press("1")
        expect(page.locator("#review [data-part=told]")).to_have_text(f"{merged} was merged into kept.")
        expect(names.last).not_to_have_text(merged)
        assert shift.get("/identities/kept")["num_items"] == 4
        page.keyboard.press("u")
        expect(page.locator("#review [data-part=told]")).to_have_text("Taken back.")
        expect(names).to_have_text(["kept", merged])
        assert shift.get("/identities/kept")["num_items"] == 3
        page.keyboard.press("2")
        expect(names.last).not_to_have_text(merged)
        assert merged not in first()
        put_off = names.last.inner_text()
        page.keyboard.press("3")
        expect(names.last).not_to_have_text(put_off)
        assert put_off in first()
        page.locator("nav a").first.focus()
        page.keyboard.press("1")  # the keys decide nothing while the focus is elsewhere
        expect(page.locator("#review [data-part=told]")).to_have_text("The pair was put off.")
        page.get_by_role("link", name="kept").focus()
        while page.locator("#review [data-part=pair]").is_visible():
            before = page.locator("#review .pair").inner_text()
            page.keyboard.press("3")
            page.wait_for_function(
                "before => { const pair = document.querySelector('#review .pair');"
                "return !pair.checkVisibility() || pair.innerText !== before; }",
                arg=before,
            )
        expect(page.get_by_text("That was the last pair.")).to_be_visible()
        page.get_by_role("button", name=re.compile("Show .* put off")).click()
        expect(names).to_have_count(2)


def test_two_people_at_once_are_told_what_the_other_has_done(shift: Shift) -> None:
    ids = shift.put("shared", next(SEEDS), next(SEEDS))
    shift.put("target", next(SEEDS))
    with shift.maria("person?id=shared") as maria, shift.jose("person?id=shared") as jose:
        expect(tiles(maria)).to_have_count(2)
        select(jose, ids[0])
        press(jose, "Split off…")
        press(jose, "Split off")
        expect(tiles(jose)).to_have_count(1)
        select(maria, *ids)
        press(maria, "Split off…")
        press(maria, "Split off")
        alert = maria.locator("#question").get_by_role("alert")
        expect(alert).to_contain_text(
            "They have given some of the crops to another person. Nothing was changed now."
        )
        press(maria, "Cancel")
        expect(tiles(maria)).to_have_count(1)

        (entry, again) = (page.locator("#person .corrections li").first for page in (maria, jose))
        again.get_by_role("button", name="Undo").click()
        expect(again).to_contain_text("Taken back by José")
        entry.get_by_role("button", name="Undo").click()
        expect(maria.locator("#done").get_by_role("alert")).to_contain_text(
            "The operation was undone already."
        )
        expect(entry).to_contain_text("Taken back by José")

        press(jose, "Merge into another…")
        jose.locator("#question").get_by_label("The other person").fill("target")
        press(jose, "Merge")
        expect(jose).to_have_url(re.compile("id=target"))
        press(maria, "Rename, describe…")
        maria.locator("#question").get_by_label("Name").fill("Too late")
        press(maria, "Save")
        expect(alert).to_contain_text("Somebody else has changed the gallery in the meantime.")
        press(maria, "Cancel")
        message = maria.locator("#person [data-part=message]")
        expect(message).to_contain_text("This person is not in the gallery any more")
        expect(maria.locator("#person [data-part=page]")).to_be_hidden()


def test_a_pair_that_somebody_else_has_merged_is_passed_by(shift: Shift) -> None:
    seed = next(SEEDS)
    for i in range(3):
        enroll(shift.client, crop(seed, 1 + i), identity_id=f"alike {i}", camera_id="door")
    with shift.maria("review?of=alike 0") as page:
        other = page.locator("#review .pair h3").last.inner_text()
        shift.client.post("/identities/alike 0/merge", json={"source_ids": [other]})
        page.get_by_role("button", name="Same").click()
        expect(page.locator("#review .pair h3").last).not_to_have_text(other)
        expect(page.locator("#review .pair h3")).to_have_count(2)


def test_a_person_is_deleted_or_erased_by_an_admin(shift: Shift) -> None:
    for name in ("gone", "erased"):
        shift.put(name, next(SEEDS), next(SEEDS))
    with shift.admin("person?id=gone") as page:
        press(page, "Delete…")
        dialog = page.locator("#question")
        expect(dialog).to_contain_text(
            "This deletes gone with 2 crops, name and notes. Nothing can take this back."
        )
        press(page, "Delete the person and 2 crops")
        expect(page.locator("#done")).to_contain_text("gone was deleted with 2 crops.")
        expect(page.locator("#person [data-part=message]")).to_contain_text("not in the gallery any more")
        page.goto(f"{shift.client.base_url}#person?id=erased")
        press(page, "Erase…")
        press(page, "Erase 1 person with 2 crops")
        expect(page.get_by_role("dialog", name="Erased")).to_contain_text("2 crops erased")
        assert [shift.client.get(f"/identities/{name}").status_code for name in ("gone", "erased")] == [
            404,
            404,
        ]
