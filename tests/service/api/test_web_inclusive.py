"""The sections Gallery and People for every role, with any name, on phones, by screen readers."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from keyed import as_key, make_key
from live_server import crop, enroll, serve
from opened_page import open_page, press, tiles
from service.settings import Settings

HOSTILE = """<img src=x onerror="alert(1)">/'&amp;?#%2F"""
RIGHT_TO_LEFT = "محمد (علي) 12"
LONG = "ä" * 200
NAMES = (HOSTILE, RIGHT_TO_LEFT, LONG)

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
PHONE = {"width": 320, "height": 640}
CORRECT = ("Rename, describe…", "Merge into another…", "Split off…", "Not this person…")
FINAL = ("Delete…", "Erase…")
MAY: dict[str, tuple[str, ...]] = {
    "reader": (),
    "limited": ("Edit…",),
    "operator": ("Edit…", "Undo", *CORRECT),
    "admin": ("Edit…", "Undo", *CORRECT, *FINAL),
}
"""Which buttons a role has on the page of a person, once a crop is selected."""


class Gallery(NamedTuple):
    """A gallery with keys, three people who look alike and have odd names, and one with corrections."""

    url: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def gallery(
    make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gallery]:
    settings = make_settings(tmp_path_factory.mktemp("inclusive") / "data")
    with serve(settings) as client:
        keys = {role: make_key(settings, role) for role in ("reader", "operator", "admin")}
        keys["limited"] = make_key(settings, "operator", "the limited", ["door"])
        with as_key(client, keys["admin"]) as admin:
            for i, name in enumerate(NAMES):
                enroll(
                    admin,
                    crop(1, 1 + i),
                    identity_id=name,
                    camera_id=name,
                    captured_at="2026-11-27T12:00:00Z",
                )
                description = {"name": name, "notes": name, "attributes": {name[:60].replace("=", ""): name}}
                admin.patch(f"/identities/{quote(name, safe='')}", json=description).raise_for_status()
            enroll(
                admin,
                crop(2),
                crop(3),
                identity_id="ann",
                camera_id="door",
                captured_at="2026-11-27T12:00:00Z",
            )
            enroll(admin, crop(4), identity_id="bob", camera_id="door")
            enroll(admin, crop(5), identity_id="eve", camera_id=LONG)
            admin.post("/identities/ann/merge", json={"source_ids": ["bob"]}).raise_for_status()
            admin.delete("/identities/eve?mode=erase").raise_for_status()
            yield Gallery(str(client.base_url), keys)


def addresses(name: str) -> list[str]:
    """Return the sections with a state that shows a person of this name."""
    return ["gallery", "people", f"person?id={quote(name)}", f"review?of={quote(name)}", "history"]


def settle(page: Page) -> None:
    """Wait until the section that is shown waits for nothing."""
    page.wait_for_load_state("networkidle")
    expect(page.locator("section:visible [aria-busy=true], section:visible[aria-busy=true]")).to_have_count(0)


def violations(page: Page, options: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Return the rules of axe that what is shown breaks, with where."""
    found = Axe().run(page, options=options).response["violations"]
    return [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found]


def unfold(page: Page) -> None:
    """Open what is folded in the section that is shown, once the section waits for nothing."""
    settle(page)
    for summary in page.locator("section:visible summary").all():
        summary.click()


def test_any_name_fits_a_small_dark_phone(browser: Browser, gallery: Gallery) -> None:
    key = gallery.keys["admin"]
    with open_page(browser, gallery.url, "gallery", key, viewport=PHONE, color_scheme="dark") as page:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(int(value) for value in re.findall(r"\d+", ground)) < 3 * 64
        for name in NAMES:
            for address in addresses(name)[0 if name == HOSTILE else 2 : 5 if name == HOSTILE else 4]:
                page.goto(f"{gallery.url}#{address}")
                unfold(page)
                assert page.evaluate("document.documentElement.scrollWidth") <= 320, address
                expect(page.locator("img[src=x]")).to_have_count(0)
            assert violations(page, {"runOnly": ["color-contrast"]}) == []


def test_names_are_shown_as_text_whose_direction_stays_their_own(browser: Browser, gallery: Gallery) -> None:
    with open_page(browser, gallery.url, "gallery", gallery.keys["reader"]) as page:
        for name in NAMES:
            shown = page.get_by_role("link", name=name, exact=True)
            expect(shown).to_have_text(name)
            expect(shown.locator("bdi")).to_have_css("unicode-bidi", "isolate")
        expect(
            page.get_by_role("link", name=f"camera \u2068{RIGHT_TO_LEFT}\u2069, Nov 27, 2026")
        ).to_have_count(1)
        expect(page.locator("bdi", has_text=RIGHT_TO_LEFT).first).to_have_css("direction", "rtl")
        page.get_by_role("link", name=HOSTILE, exact=True).click()
        expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
        expect(page).to_have_title(f"{HOSTILE} · reid-gallery")


def test_axe_finds_nothing_and_nothing_moves_where_that_is_not_wanted(
    browser: Browser, gallery: Gallery
) -> None:
    key = gallery.keys["admin"]
    with open_page(browser, gallery.url, "gallery", key, reduced_motion="reduce") as page:
        expect(tiles(page).first).to_have_css("transition-duration", "0s")
        for address in addresses("ann"):
            page.goto(f"{gallery.url}#{address}")
            unfold(page)
            assert violations(page, RULES) == [], address
        page.goto(f"{gallery.url}#person?id=ann")
        tiles(page).first.get_by_role("checkbox").check()
        for button in ("Edit…", "Delete…"):
            page.locator("#person .bar").get_by_role("button", name=button).click()
            assert violations(page, RULES) == [], button
            page.keyboard.press("Escape")
        tiles(page).first.locator("a").first.click()
        expect(page.locator("#crop img")).to_be_visible()
        assert violations(page, RULES) == [], "a crop"


@pytest.mark.parametrize("role", sorted(MAY))
def test_a_role_is_shown_what_it_may_do(browser: Browser, gallery: Gallery, role: str) -> None:
    refused: list[str] = []
    with open_page(browser, gallery.url, "person?id=ann", gallery.keys[role]) as page:
        page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
        expect(tiles(page)).to_have_count(3)
        page.locator("#person .tile input").first.dispatch_event("click")
        section = page.locator("#person")
        for name in {"Edit…", "Undo", *CORRECT, *FINAL}:
            buttons = section.get_by_role("button", name=name, exact=True)
            expect(buttons.first if name in MAY[role] else buttons).to_have_count(int(name in MAY[role]))
        is_limited = role == "limited"
        expect(section.locator(".corrections li")).to_have_count(0 if is_limited else 1)
        page.goto(f"{gallery.url}#review")
        shown = "review" if role in ("operator", "admin") else "search"
        expect(page.locator("main > section:visible")).to_have_id(shown)
        page.goto(f"{gallery.url}#history")
        expect(page.locator("main > section:visible")).to_have_id("search" if is_limited else "history")
        receipts = page.locator("#history [data-part=receipts] > li")
        expect(receipts).to_have_count(1 if role == "admin" else 0)
        page.goto(f"{gallery.url}#gallery")
        expect(tiles(page)).to_have_count(3 if is_limited else 6)
    assert refused == []


def test_what_somebody_has_selected_is_not_shown_to_another_key(browser: Browser, gallery: Gallery) -> None:
    with open_page(browser, gallery.url, "person?id=ann", gallery.keys["admin"]) as page:
        tiles(page).first.get_by_role("checkbox").check()
        page.locator("#person .bar").get_by_role("button", name="Delete…").click()
        expect(page.locator("#question")).to_be_visible()
        page.context.clear_cookies()
        press(page, "Delete 1 crop")
        field = page.get_by_label("Key", exact=True)
        expect(field).to_be_focused()
        field.fill(gallery.keys["reader"])
        page.keyboard.press("Enter")
        expect(page.locator("#who")).to_have_text("the reader · reader")
        expect(page.locator("#question")).to_be_hidden()
        expect(tiles(page)).to_have_count(3)
        expect(page.locator("#person .bar")).to_be_hidden()
