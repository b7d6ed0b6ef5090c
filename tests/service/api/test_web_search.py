"""The page never shows the matches of another query than the one on it, however late an answer comes."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect
from starlette.types import ASGIApp, Receive, Scope, Send

from counted import save_counted
from live_server import crop, enroll, search, serve, wait_until
from service.settings import Settings


class Gate:
    """Stands before the app, and lets searches wait while it is closed.

    Attributes:
        num_waiting: how many searches wait.
        num_done: how many searches the app has ended with.
    """

    def __init__(self) -> None:
        self._open = Event()
        self._app: ASGIApp | None = None
        self.open()
        self.num_waiting = self.num_done = 0

    def open(self) -> None:
        """Let every search go on."""
        self._open.set()

    def close(self) -> None:
        """Let further searches wait."""
        self._open.clear()

    def has_waiting(self, num: int) -> bool:
        """Return whether so many searches wait."""
        return self.num_waiting == num

    def before(self, app: ASGIApp) -> ASGIApp:
        """Stand before an app."""
        self._app = app
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        assert self._app is not None
        if scope["type"] != "http" or scope["path"] != "/search":
            await self._app(scope, receive, send)
            return
        self.num_waiting += 1
        while not self._open.is_set():
            await asyncio.sleep(0.01)
        self.num_waiting -= 1
        await self._app(scope, receive, send)
        self.num_done += 1


class Slow(NamedTuple):
    """The page of a service whose searches go through a gate."""

    page: Page
    gate: Gate

    @property
    def cards(self) -> Locator:
        return self.page.locator("#search .card")

    @property
    def message(self) -> Locator:
        return self.page.locator("#search [data-part=message]")

    def choose(self, seed: int) -> None:
        file: FilePayload = {"name": f"{seed}.jpg", "mimeType": "image/jpeg", "buffer": crop(seed)}
        self.page.locator("#search .drop input").set_input_files(file)

    def expect_best(self, name: str) -> None:
        expect(self.cards.first.locator("> .name")).to_have_text(name)


@pytest.fixture
def slow(browser: Browser, settings: Settings) -> Iterator[Slow]:
    """A gallery of three people; the clock of the page goes on when a test says so, or by itself."""
    gate = Gate()
    with serve(settings, wrap=gate.before) as client:
        for seed, name in enumerate(("anna", "berta", "carla"), start=1):
            enroll(client, crop(seed), identity_id=name)
        context = browser.new_context()
        context.clock.install()
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{client.base_url}/#search")
        expect(page.locator("#status")).to_have_class("ready")
        yield Slow(page, gate)
        gate.open()
        context.close()
        assert not faults


def test_a_new_query_takes_the_old_answer_away_at_once(slow: Slow) -> None:
    slow.choose(1)
    slow.expect_best("anna")
    slow.gate.close()
    slow.choose(2)
    expect(slow.cards).to_have_count(0)
    expect(slow.message).to_have_text("Searching.")
    expect(slow.page.locator("#search")).to_have_attribute("aria-busy", "true")
    slow.gate.open()
    slow.expect_best("berta")
    expect(slow.page.locator("#search")).to_have_attribute("aria-busy", "false")


def test_the_answer_to_an_older_query_never_appears(slow: Slow) -> None:
    slow.gate.close()
    for num_before, seed in enumerate((1, 2, 3)):
        wait_until(partial(slow.gate.has_waiting, num_before))
        slow.choose(seed)
    slow.gate.open()
    slow.expect_best("carla")
    wait_until(lambda: slow.gate.num_done == 3)
    slow.page.clock.run_for(1_000)
    slow.expect_best("carla")
    expect(slow.page.locator("#search [role=alert]")).to_have_count(0)


def test_a_search_without_an_answer_can_be_tried_again(slow: Slow) -> None:
    slow.gate.close()
    slow.choose(3)
    expect(slow.message).to_have_text("Searching.")
    slow.page.clock.run_for(20_000)
    expect(slow.message).to_contain_text("the service has not answered within 20 seconds")
    slow.gate.open()
    slow.page.get_by_role("button", name="Try again").click()
    slow.expect_best("carla")


def test_what_cannot_be_answered_is_not_offered_again(slow: Slow) -> None:
    file: FilePayload = {"name": "no.jpg", "mimeType": "image/jpeg", "buffer": b"no image"}
    slow.choose(1)
    slow.expect_best("anna")
    slow.page.locator("#search .drop input").set_input_files(file)
    expect(slow.message).to_contain_text("not a JPEG, PNG, WebP or BMP image")
    expect(slow.cards).to_have_count(0)
    expect(slow.page.get_by_role("button", name="Try again")).to_have_count(0)


def in_words(expected: float) -> str:
    """Say of the expected strangers what the page should say."""
    if expected >= 1:
        num = round(float(f"{expected:.2g}"))
        return f"about {num} stranger{'s' if num > 1 else ''} in this gallery"
    num = round(float(f"{1 / expected:.2g}"))
    return "about 1 stranger in this gallery" if num < 2 else f"about 1 stranger in {num:,} such galleries"


def test_the_page_says_in_words_how_many_strangers_look_as_alike(
    browser: Browser, settings: Settings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    network = save_counted(tiny_checkpoint, tmp_path / "counted.safetensors")
    with serve(settings.model_copy(update={"default_checkpoint": network})) as client:
        for seed in range(12):
            enroll(client, crop(seed), identity_id=f"p{seed}")
        answer = search(client, crop(3), top_k=12)
        page = browser.new_page(locale="en-GB")
        page.goto(f"{client.base_url}/#search")
        expect(page.locator("#status")).to_have_class("ready")
        shown = Slow(page, Gate())
        shown.choose(3)
        expect(shown.cards).to_have_count(12)
        words = [in_words(match["expected_strangers"]) for match in answer["matches"]]
        assert len(set(words)) > 3
        expect(shown.cards.locator(".strangers")).to_have_text(words)
        expect(shown.cards.locator(".tag")).to_have_text([str(m["decision"]) for m in answer["matches"]])
        limit = "fewer than 1 stranger in 20 such galleries would reach by chance"
        expect(shown.message).to_contain_text(f"{limit}, counted on 200 people for the network's card.")
        page.close()


def test_the_page_says_where_to_get_decisions_if_there_are_none(slow: Slow) -> None:
    slow.choose(1)
    expect(slow.message).to_contain_text("No decisions: evaluate the network under Networks to get them.")
    expect(slow.cards.locator(".tag, .strangers")).to_have_count(0)
