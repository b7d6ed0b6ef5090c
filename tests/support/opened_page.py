"""The page of a service, opened in a browser of its own, as the tests of its sections need it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect


@contextmanager
def open_page(
    browser: Browser, url: str, section: str, key: str | None = None, **options: Any
) -> Iterator[Page]:
    """Open a section of the page, signed in if there is a key; the page must raise no error until the end.

    Args:
        browser: Chromium.
        url: the URL of the service.
        section: the section and its state, as the address has it after the `#`.
        key: the key to sign in with; None without keys.
        options: of the browser, such as its `viewport`.
    """
    faults: list[str] = []
    options = {"viewport": {"width": 1280, "height": 900}, "timezone_id": "Europe/Vienna", **options}
    context = browser.new_context(**options)
    if key is not None:
        assert context.request.post(f"{url.rstrip('/')}/session", data={"key": key}).ok
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
    page.goto(f"{url.rstrip('/')}/#{section}")
    expect(page.locator("#status")).to_have_class("ready")
    yield page
    context.close()
    assert not faults


Opened = Callable[[str], AbstractContextManager[Page]]
"""Opens a section of a page that tests share."""


@contextmanager
def share_page(browser: Browser, url: str, key: str | None = None) -> Iterator[Opened]:
    """Share one page among tests, because each load of the page takes half a second of a processor.

    A test that fails leaves the page anywhere. So the next test gets a new page.
    """
    with ExitStack() as stack:
        shared: list[Page] = []

        @contextmanager
        def open_section(section: str) -> Iterator[Page]:
            if not shared:
                shared.append(stack.enter_context(open_page(browser, url, "search", key)))
            (page,) = shared
            page.goto(f"{url.rstrip('/')}/#{section}")
            if page.locator("#done").is_visible():
                page.get_by_role("button", name="Dismiss").click()
            try:
                yield page
            except BaseException:
                shared.clear()
                raise

        yield open_section


def tiles(page: Page) -> Locator:
    """Return the cards of the section that is shown."""
    return page.locator("section:visible .tile")


def tile(page: Page, item_id: str) -> Locator:
    """Return the card of an item."""
    return page.locator(f"section:visible .tile:has([data-item='{item_id}'])")


def select(page: Page, *item_ids: str) -> None:
    """Select the cards of items."""
    for item_id in item_ids:
        tile(page, item_id).get_by_role("checkbox").check()


def press(page: Page, name: str) -> None:
    """Press a button of the section or of the dialog on top of it."""
    dialogs = page.locator("dialog[open]")
    (dialogs.last if dialogs.count() else page).get_by_role("button", name=name, exact=True).click()


def undo(page: Page) -> None:
    """Take back what the page says was done."""
    page.locator("#done").get_by_role("button", name="Undo").click()
    expect(page.locator("#done")).to_contain_text("Taken back")
