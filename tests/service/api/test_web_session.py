"""The page signs in with a key, shows what its role allows, and asks again when the sign-in has ended."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Locator, Page, Request, expect

from keyed import as_key, make_key, store_of
from live_server import crop, serve, upload_model
from other_site import FORM_POST, in_page, serve_other_site
from running_job import put_running_job
from service.keys.keys import revoke_key
from service.settings import Settings
from set_clock import served_with_a_held_expiry

MINUTE_MS = 60_000
CAMERAS = ["door", "hall", *(f"room {i}" for i in range(5))]
WHO = {
    "reader": "the reader · reader",
    "operator": "the operator · operator",
    "admin": "the admin · admin",
    "limited": "the limited · operator · only door, hall, room 0, room 1, room 2 and 2 more cameras",
}
EVERYBODY = set(WHO)
CORRECTING = {"operator", "admin", "limited"}
NOT_LIMITED = {"reader", "operator", "admin"}
SHOWN_TO = {
    "nav a[href='#search']": EVERYBODY,
    "nav a[href='#enrol']": CORRECTING,
    "nav a[href='#networks']": NOT_LIMITED,
    "#networks summary:text('Card')": NOT_LIMITED,
    "#networks a:text('Download')": {"admin"},
    "#networks button:text('Evaluate')": {"admin"},
    "#networks summary:text('Activate…')": {"admin"},
    "#networks button:text('Delete')": {"admin"},
    "#register-form": {"admin"},
    "#rollback": {"admin"},
    "#retention article": NOT_LIMITED,
    "#retention button": {"admin"},
    "#jobs article": NOT_LIMITED,
    "#jobs button:text('Cancel')": {"operator", "admin"},
    "main .notice": set[str](),
}
"""Who is shown what of a gallery with two networks, an expiry that waits, and a job of nobody's key."""


class Gallery(NamedTuple):
    """A gallery that has keys."""

    url: str
    settings: Settings
    keys: dict[str, str]


@pytest.fixture(scope="module")
def gallery(
    make_settings: Callable[..., Settings],
    tmp_path_factory: pytest.TempPathFactory,
    another_checkpoint: Path,
) -> Iterator[Gallery]:
    settings = make_settings(tmp_path_factory.mktemp("keyed") / "data", retention_days=30)
    with served_with_a_held_expiry(settings, crop(1), crop(2)) as client:
        version = upload_model(client, another_checkpoint).json()["version"]
        put_running_job(settings, version, alive_for=timedelta(days=60))
        keys = {role: make_key(settings, role) for role in ("reader", "operator", "admin")}
        keys["limited"] = make_key(settings, "operator", "the limited", CAMERAS)
        yield Gallery(str(client.base_url), settings, keys)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A new browser, whose clock a test may let run fast."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.clock.install()
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that raises no error and breaks no policy."""
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
    yield page
    assert not faults


def sign_in(page: Page, key: str) -> None:
    """Write a key into the form, and send it."""
    page.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")


def open_signed_in(page: Page, gallery: Gallery, key: str, section: str = "search") -> None:
    """Open the page, and sign in."""
    page.goto(f"{gallery.url}/#{section}")
    sign_in(page, key)
    expect(page.locator("#status")).to_have_class("ready")


def form(page: Page) -> Locator:
    """Return the form for the key."""
    return page.get_by_role("dialog", name="Sign in")


def upload(seed: int) -> FilePayload:
    return {"name": f"{seed}.jpg", "mimeType": "image/jpeg", "buffer": crop(seed)}


def requests_of(page: Page) -> list[str]:
    """Return a list to which each request of a page is added, without those for its files."""
    asked: list[str] = []

    def note(sent: Request) -> None:
        path = urlsplit(sent.url).path
        if path != "/" and not path.startswith("/web/"):
            asked.append(f"{sent.method} {path}")

    page.on("request", note)
    return asked


def test_before_a_key_there_is_the_form_alone_and_no_data_is_asked_for(page: Page, gallery: Gallery) -> None:
    asked = requests_of(page)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(gallery.url)
    field = page.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    page.keyboard.press("Escape")
    expect(field).to_be_focused()
    page.clock.run_for(MINUTE_MS)
    assert asked == ["GET /session"]
    for hidden in ("main", "nav", "#status", ".caller"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_wrong_key_is_refused_and_a_right_one_becomes_a_cookie_that_no_script_reads(
    page: Page, gallery: Gallery
) -> None:
    page.goto(gallery.url)
    sign_in(page, gallery.keys["admin"][:-1])
    expect(page.get_by_role("alert")).to_contain_text("the key is not one of this service")
    field = page.get_by_label("Key", exact=True)
    expect(field).to_have_value("")
    expect(field).to_be_focused()
    expect(page.locator("main")).to_be_hidden()
    assert page.context.cookies() == []

    sign_in(page, gallery.keys["admin"])
    expect(page.locator("#who")).to_have_text("the admin · admin")
    expect(page.locator("nav a").first).to_be_focused()
    expect(field).to_have_value("")
    expect(field).to_be_hidden()
    expect(page.get_by_role("alert").filter(has_text="key")).to_have_count(0)
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    secret = gallery.keys["admin"].rpartition("_")[2]
    assert secret not in cookie["value"] + page.url + page.content()


@pytest.mark.parametrize("name", sorted(EVERYBODY))
def test_a_key_is_shown_what_it_may_use(page: Page, gallery: Gallery, name: str) -> None:
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    open_signed_in(page, gallery, gallery.keys[name], "networks")
    expect(page.locator("#who")).to_have_text(WHO[name])
    expect(page.locator("#networks li")).to_have_count(2 if name in NOT_LIMITED else 0)
    with page.expect_response("**/jobs?*"):
        page.clock.run_for(6_000)
    for what, names in sorted(SHOWN_TO.items(), key=lambda row: name not in row[1]):
        found = page.locator(what).filter(visible=True)
        if name in names:
            expect(found.first).to_be_visible()
        else:
            expect(found).to_have_count(0)
    assert refused == [f"{gallery.url}/session"]  # before the sign-in
    page.goto(f"{gallery.url}/#enrol")
    shown = "enrol" if name in CORRECTING else "search"
    expect(page.locator("section").filter(visible=True)).to_have_id(shown)
    expect(page).to_have_url(re.compile(f"#{shown}$"))


def test_signing_out_ends_the_sign_in(page: Page, gallery: Gallery) -> None:
    open_signed_in(page, gallery, gallery.keys["reader"])
    (cookie,) = page.context.cookies()
    page.get_by_role("button", name="Sign out").click()
    expect(form(page)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.context.cookies() == []
    sent = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert httpx.get(f"{gallery.url}/gallery", headers=sent).status_code == 401


KEPT = "url => fetch(url, {cache: 'only-if-cached', mode: 'same-origin'}).then(() => true, () => false)"
"""Whether the browser has kept the answer to a URL."""


def test_signing_out_deletes_the_pictures_that_the_browser_has_kept(page: Page, gallery: Gallery) -> None:
    open_signed_in(page, gallery, gallery.keys["reader"])
    page.locator("#search .drop input").set_input_files(upload(1))
    shown = page.locator("#search .card img").first
    expect(shown).to_be_visible()
    picture = shown.evaluate("async image => { await image.decode(); return image.src }")
    assert page.evaluate(KEPT, picture)
    page.get_by_role("button", name="Sign out").click()
    expect(form(page)).to_be_visible()
    assert not page.evaluate(KEPT, picture)


def test_a_key_that_is_revoked_loses_nothing_that_was_typed_or_chosen(page: Page, gallery: Gallery) -> None:
    anna, bert = (make_key(gallery.settings, "operator", name) for name in ("anna", "bert"))
    open_signed_in(page, gallery, anna)
    page.locator("#search .drop input").set_input_files(upload(1))
    expect(page.locator("#search .card").first).to_be_visible()
    page.locator("nav a[href='#enrol']").click()
    page.locator("#enrol").get_by_label("Identity").fill("person 9")
    page.locator("#enrol .drop input").set_input_files(upload(9))
    with store_of(gallery.settings) as store:
        revoke_key(store, "anna")
    page.get_by_role("button", name="Enrol").click()
    expect(form(page)).to_contain_text("Signed out")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    expect(page.locator("main")).to_be_hidden()

    sign_in(page, bert)
    expect(page.locator("#who")).to_have_text("bert · operator")
    expect(page.locator("#enrol").get_by_label("Identity")).to_have_value("person 9")
    expect(page.locator("#search .card")).to_have_count(0)  # what anna has found is not for bert
    page.get_by_role("button", name="Enrol").click()
    expect(page.locator("#enrol .card")).to_have_text(re.compile("person 9"))


def test_a_sign_in_that_ends_unnoticed_is_asked_for_by_the_next_poll(page: Page, gallery: Gallery) -> None:
    open_signed_in(page, gallery, gallery.keys["reader"])
    expect(page.locator("#jobs article")).to_be_visible()
    page.locator("#search .drop input").set_input_files(upload(1))
    page.locator("#search .card").first.click()
    dialog = page.locator("#identity")
    expect(dialog.locator(".strip img")).to_have_count(1)
    page.context.clear_cookies()
    page.clock.run_for(6_000)
    expect(form(page)).to_contain_text("nobody is signed in here any more")
    expect(form(page)).to_contain_text("What you have typed and chosen is still here.")
    expect(dialog).to_be_hidden()
    asked = requests_of(page)
    page.clock.run_for(MINUTE_MS)
    assert asked == []

    sign_in(page, gallery.keys["reader"])
    expect(page.locator("#status")).to_have_class("ready")
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#search .card").first).to_be_focused()
    with page.expect_request("**/models"):
        page.clock.run_for(6_000)


def test_without_a_key_the_page_says_so_until_the_first_key_is_made(page: Page, settings: Settings) -> None:
    with serve(settings) as client:
        page.goto(f"{client.base_url}/")
        expect(page.locator(".notice")).to_contain_text("No key was made yet")
        expect(page.locator(".caller")).to_be_hidden()
        page.locator("nav a[href='#networks']").click()
        expect(page.locator("#rollback")).to_be_visible()
        key = make_key(settings, "admin")
        page.get_by_role("button", name="Evaluate").click()
        expect(form(page)).to_be_visible()
        sign_in(page, key)
        expect(page.locator("#rollback")).to_be_visible()
        expect(page.locator(".notice")).to_be_hidden()


@pytest.mark.parametrize(
    ("site", "is_cookie_sent"), [("http://evil.example", False), ("http://127.0.0.1", True)]
)
def test_a_page_elsewhere_cannot_act_in_a_browser_that_is_signed_in(
    page: Page, gallery: Gallery, site: str, is_cookie_sent: bool
) -> None:
    """A browser takes another port of a host for the same site, so it sends the cookie there."""
    open_signed_in(page, gallery, gallery.keys["admin"])
    read = """async url => fetch(url, {credentials: "include", mode: "no-cors"})
        .then(answer => answer.text(), () => "")"""
    post = """async url => fetch(url, {method: "POST", credentials: "include", mode: "no-cors"})
        .then(() => null, () => null)"""
    with serve_other_site() as port:
        evil = page.context.new_page()
        evil.goto(f"{site}:{port}/")
        assert evil.evaluate(read, f"{gallery.url}/gallery") == ""
        assert in_page(evil, lambda: evil.evaluate(FORM_POST, f"{gallery.url}/models/rollback")) == [403]
        evil.evaluate(post, f"{gallery.url}/models/rollback")
        evil.set_content(f"<a href='{gallery.url}/gallery'>a link</a>")
        with evil.expect_response(f"{gallery.url}/gallery") as visited:
            evil.get_by_text("a link").click()
        assert visited.value.status == (200 if is_cookie_sent else 401)
        evil.close()
    with httpx.Client(base_url=gallery.url) as client, as_key(client, gallery.keys["admin"]) as admin:
        assert len(admin.get("/jobs").json()["jobs"]) == 1
    page.reload()
    expect(page.locator("#who")).to_have_text("the admin · admin")
