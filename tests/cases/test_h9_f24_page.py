"""H9 and F24 on the page: an expiry that waits is told and confirmed there, and warnings are listed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from chromium import run_chromium
from live_server import crop, wait_until
from service.settings import Settings
from set_clock import served_with_a_held_expiry


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of Chromium, as the machine has it."""
    with run_chromium() as browser:
        yield browser.new_page(viewport={"width": 1280, "height": 900}, timezone_id="Europe/Vienna")


@pytest.fixture
def held(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a service in which an expiry of one item waits, because it was restarted 31 days later."""
    settings = make_settings(tmp_path / "data", retention_days=30)
    with served_with_a_held_expiry(settings, crop(1)) as client:
        yield client


def test_h9_f24_the_page_tells_of_an_expiry_that_waits_and_of_times_that_cannot_be(
    page: Page, held: httpx.Client
) -> None:
    page.goto(f"{held.base_url}/#enrol")
    waiting = page.locator("#retention article")
    expect(waiting).to_contain_text("1 of 1 items are past their retention")
    page.once("dialog", lambda dialog: dialog.accept())
    waiting.get_by_role("button").click()
    expect(waiting).to_have_count(0)
    wait_until(lambda: not held.get("/gallery").json()["items"])

    files = page.locator("#enrol input[type=file]")
    files.set_input_files({"name": "old.jpg", "mimeType": "image/jpeg", "buffer": crop(2)})
    page.locator("#enrol [name=captured_at]").fill("1970-01-02T00:00:00")
    page.locator("#enrol-form button.main").click()
    warnings = page.locator("#enrol .warnings")
    expect(warnings).to_contain_text("1 warning")
    expect(warnings.locator("li")).to_contain_text("old.jpg: captured_at 1970-01-01T23:00:00+00:00 is before")
