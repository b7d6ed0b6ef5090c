"""The page at /: what people do with it in a browser, if there is one."""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect

from draw_people import draw_person
from live_server import activate, encode, enroll, search, serve, upload_model
from model.checkpoint import checkpoint_version
from running_job import put_failed_files, put_running_job
from service.settings import Settings

HOSTILE = """<img src=x onerror="alert(1)">/'&amp;?#%2F"""
NOON = "2026-03-01T12:00:00Z"


def drawn(person: int, camera: int) -> bytes:
    """Return a JPEG of someone who does not exist."""
    return encode(draw_person(person, camera), quality=95)


def upload(content: bytes, name: str = "crop.jpg") -> FilePayload:
    """Return a file as a browser is given it."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": content}


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a service; it must raise no error, show no alert and break no policy until the end."""
    faults: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, timezone_id="Europe/Vienna")

    def open_page(client: httpx.Client, section: str = "search") -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        page.goto(f"{client.base_url}/#{section}")
        expect(page.locator("#status")).to_have_class("ready")
        return page

    yield open_page
    context.close()
    assert not faults


@pytest.fixture(scope="module")
def peopled(shared_client: httpx.Client) -> httpx.Client:
    """A client of a service that knows four people from two cameras, and one whose id is an attack."""
    for person in range(1, 5):
        for camera in (1, 2):
            enroll(
                shared_client,
                drawn(person, camera),
                identity_id=f"person-{person}",
                camera_id=f"camera-{camera}",
                captured_at=f"2026-03-0{person}T1{camera}:00:00Z",
            )
    enroll(shared_client, drawn(5, 1), identity_id=HOSTILE, camera_id=HOSTILE)
    shared_client.patch(f"/identities/{quote(HOSTILE, safe='')}", json={"name": HOSTILE})
    return shared_client


def choose(page: Page, section: str, *files: FilePayload) -> None:
    """Choose files in a section."""
    page.locator(f"#{section} .drop input").set_input_files(list(files))


def texts(cards: Locator) -> list[str]:
    """Return what elements say."""
    return [text.strip() for text in cards.all_text_contents()]


def test_a_search_shows_what_the_api_answers(peopled: httpx.Client, open_page: Callable[..., Page]) -> None:
    answer = search(peopled, drawn(3, 3), top_k=12)
    page = open_page(peopled)
    choose(page, "search", upload(drawn(3, 3)))
    cards = page.locator("#search .card")
    expect(cards).to_have_count(len(answer["matches"]))
    assert texts(cards.locator("> .name")) == [match["identity_id"] for match in answer["matches"]]
    assert texts(cards.locator(".score small")) == [f"{match['score']:.3f}" for match in answer["matches"]]
    best = answer["matches"][0]["items"][0]
    expect(cards.first.locator(".where .name")).to_have_text(best["camera_id"])
    expect(cards.first.locator("> img")).to_have_js_property("complete", True)
    assert cards.first.locator("> img").evaluate("image => image.naturalWidth") > 0
    expect(page.locator("#search [data-part=message]")).to_contain_text(answer["model_version"])


def test_several_crops_and_filters_are_sent(peopled: httpx.Client, open_page: Callable[..., Page]) -> None:
    filters = {"group_by": "item", "camera_id": "camera-1", "captured_after": "2026-03-02T00:00:00Z"}
    answer = search(peopled, drawn(2, 3), drawn(2, 4), top_k=12, **filters)
    page = open_page(peopled)
    page.get_by_text("Narrow the search").click()
    page.get_by_label("One match for each").select_option("item")
    page.get_by_label("Only this camera").fill("camera-1")
    page.get_by_label("Captured from").fill("2026-03-02T01:00:00")  # Vienna is an hour ahead of UTC
    choose(page, "search", upload(drawn(2, 3)), upload(drawn(2, 4)))
    cards = page.locator("#search .card > .name")
    expect(cards).to_have_count(len(answer["matches"]))
    assert texts(cards) == [match["identity_id"] for match in answer["matches"]] != []


def test_a_match_opens_the_timeline_by_keyboard_alone(
    peopled: httpx.Client, open_page: Callable[..., Page]
) -> None:
    page = open_page(peopled)
    choose(page, "search", upload(drawn(1, 3)))
    expect(page.locator("#search .card").first).to_be_visible()
    best = search(peopled, drawn(1, 3))["matches"][0]["identity_id"]
    page.locator("#search .drop input").focus()
    for _ in range(2):  # over the options, which are closed, to the best match
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=best)
    visits = peopled.get(f"/identities/{best}/timeline").json()["visits"]
    expect(dialog.locator(".visits li")).to_have_count(len(visits))
    assert texts(dialog.locator(".visits .name")) == [visit["camera_id"] for visit in visits]
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#search .card").first).to_be_focused()


def test_what_people_have_named_is_shown_as_text(
    peopled: httpx.Client, open_page: Callable[..., Page]
) -> None:
    page = open_page(peopled)
    choose(page, "search", upload(drawn(5, 1)))
    card = page.locator("#search .card").first
    expect(card.locator("> .name")).to_have_text(HOSTILE)
    expect(card.locator(".where .name")).to_have_text(HOSTILE)
    card.click()
    expect(page.locator("#identity h2")).to_have_text(HOSTILE)
    expect(page.locator("#identity [data-part=message]")).to_have_text(f"{HOSTILE} · 1 item")
    expect(page.locator("#identity .strip img")).to_have_count(1)  # it has no time, so it is in no visit
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_crops_that_are_dropped_are_enrolled_with_what_is_known_of_them(
    shared_client: httpx.Client, open_page: Callable[..., Page]
) -> None:
    page = open_page(shared_client, "enrol")
    dropped = page.evaluate_handle(
        """contents => {
            const dropped = new DataTransfer();
            for (const [i, bytes] of contents.entries()) {
                dropped.items.add(new File([new Uint8Array(bytes)], `${i}.jpg`, {type: "image/jpeg"}));
            }
            return dropped;
        }""",
        [list(drawn(21, camera)) for camera in (1, 2)],
    )
    page.locator("#enrol .drop").dispatch_event("drop", {"dataTransfer": dropped})
    expect(page.locator("#enrol .strip img")).to_have_count(2)
    page.locator("#enrol").get_by_label("Identity").fill("person-21")
    page.locator("#enrol").get_by_label("Camera").fill("yard")
    page.get_by_label("Captured at").fill("2026-03-01T13:00:00")
    page.get_by_role("button", name="Enrol").click()
    expect(page.locator("#enrol [data-part=message]")).to_contain_text("2 crops enrolled")
    expect(page.locator("#enrol .card")).to_have_count(2)
    items = shared_client.get("/identities/person-21/items").json()["items"]
    assert [(item["camera_id"], item["captured_at"]) for item in items] == [("yard", NOON)] * 2


def test_more_crops_than_a_request_may_have_are_sent_in_batches(
    shared_client: httpx.Client, open_page: Callable[..., Page]
) -> None:
    page = open_page(shared_client, "enrol")
    page.locator("#enrol").get_by_label("Identity").fill("crowd")
    choose(page, "enrol", *(upload(drawn(30, camera)) for camera in range(70)))
    page.get_by_role("button", name="Enrol").click()
    expect(page.locator("#enrol .card")).to_have_count(70)
    assert shared_client.get("/identities/crowd").json()["num_items"] == 70


def test_a_refusal_is_shown_as_the_api_says_it(
    shared_client: httpx.Client, open_page: Callable[..., Page]
) -> None:
    page = open_page(shared_client, "enrol")
    choose(page, "enrol", upload(drawn(1, 1)), upload(b"no image", "<b>torn</b>.jpg"))
    with page.expect_response("**/gallery") as refused:
        page.get_by_role("button", name="Enrol").click()
    problem = refused.value.json()
    alert = page.get_by_role("alert")
    for told in (problem["title"], problem["detail"], problem["request_id"], "<b>torn</b>.jpg"):
        expect(alert).to_contain_text(told)
    expect(page.get_by_role("button", name="Enrol")).to_be_enabled()


def test_a_service_that_is_gone_is_told_and_found_again(
    peopled: httpx.Client, open_page: Callable[..., Page]
) -> None:
    page = open_page(peopled)
    page.context.set_offline(True)
    choose(page, "search", upload(drawn(1, 1)))
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(page.locator("#status")).to_have_class("failed", timeout=10_000)
    page.context.set_offline(False)
    expect(page.locator("#status")).to_have_class("ready", timeout=10_000)
    choose(page, "search", upload(drawn(1, 1)))
    expect(page.locator("#search .card").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_swap_is_shown_without_a_reload_whoever_has_begun_it(
    settings: Settings, another_checkpoint: Path, open_page: Callable[..., Page]
) -> None:
    version = checkpoint_version(another_checkpoint)
    with serve(settings) as client:
        enroll(client, *(drawn(person, 1) for person in range(20)))
        page = open_page(client, "networks")
        page.evaluate("window.isStillHere = true")
        page.locator("#networks .drop input").set_input_files(another_checkpoint)
        expect(page.locator(".networks > li")).to_have_count(2)
        row = page.locator(".networks > li", has_text=version)
        expect(row.locator(".tag")).to_have_text("registered")
        row.get_by_text("Activate…").click()
        row.get_by_role("button", name="Activate").click()
        job = page.locator(".job", has_text=f"Activating {version}")
        expect(job).to_contain_text(": done")
        expect(job).to_contain_text("20 of 20 items")
        expect(row.locator(".tag")).to_have_text("active")
        expect(page.locator("#status")).to_contain_text(version)
        expect(row.get_by_text("Activate…")).to_be_hidden()
        job.get_by_role("button", name="Dismiss").click()
        expect(page.locator(".job")).to_have_count(0)
        first = page.locator(".networks > li", has_text="retired").locator("h3 code").inner_text()
        activate(client, first)
        expect(page.locator("#status")).to_contain_text(first, timeout=10_000)
        expect(row.locator(".tag")).to_have_text("retired")
        assert page.evaluate("window.isStillHere")


def test_a_network_is_judged_taken_back_and_deleted_on_the_page(
    settings: Settings, another_checkpoint: Path, open_page: Callable[..., Page]
) -> None:
    with serve(settings) as client:
        for person, camera in itertools.product(range(6), (1, 2)):
            enroll(client, drawn(person, camera), identity_id=f"p{person}", camera_id=f"c{camera}")
        version = upload_model(client, another_checkpoint).json()["version"]
        page = open_page(client, "networks")
        page.on("dialog", lambda dialog: dialog.accept())
        row = page.locator(".networks > li", has_text=version)
        row.get_by_role("button", name="Evaluate").click()
        expect(page.locator(".job", has_text=version)).to_contain_text(": done", timeout=20_000)
        rank1 = client.get(f"/models/{version}").json()["evaluation"]["rank1"]
        expect(row).to_contain_text(f"on this gallery rank-1 {rank1:.1f}")
        page.reload()
        expect(row).to_contain_text(f"on this gallery rank-1 {rank1:.1f}")
        activate(client, version)
        expect(row.locator(".tag")).to_have_text("active", timeout=10_000)
        page.get_by_role("button", name="Roll back").click()
        expect(row.locator(".tag")).to_have_text("retired", timeout=20_000)
        row.get_by_role("button", name="Delete").click()
        expect(page.locator(".networks > li")).to_have_count(1)
        assert client.get(f"/models/{version}").status_code == 404


def test_an_activation_that_stands_in_the_way_is_shown_and_can_be_cancelled(
    settings: Settings, another_checkpoint: Path, open_page: Callable[..., Page]
) -> None:
    with serve(settings) as client:
        version = upload_model(client, another_checkpoint).json()["version"]
        job_id = put_running_job(settings, version)
        page = open_page(client, "networks")
        row = page.locator(".networks > li", has_text=version)
        row.get_by_text("Activate…").click()
        row.get_by_role("button", name="Activate").click()
        expect(row.get_by_role("alert")).to_contain_text(job_id)
        job = page.locator(".job")
        expect(job).to_contain_text("400 of 1,000 items")
        expect(job).to_contain_text(re.compile(r"[\d.]+ a second · 1 min \d+ s left"))
        expect(job.get_by_role("progressbar")).to_have_js_property("position", 0.4)
        job.get_by_role("button", name="Cancel").click()
        expect(job).to_contain_text("cancelled")
        assert client.get(f"/jobs/{job_id}").json()["state"] == "cancelled"


def test_an_import_is_counted_by_what_became_of_its_files(
    settings: Settings, open_page: Callable[..., Page]
) -> None:
    with serve(settings) as client:
        options = {"skipped": {"hidden files": 3}}
        job_id = put_running_job(settings, None, kind="import", options=options, num_existing=7)
        put_failed_files(settings, job_id, 2)
        job = open_page(client, "networks").locator(".job", has_text="Importing")
        expect(job).to_contain_text(
            "400 of 1,000 items · 391 enrolled · 7 there already · 2 failed · 3 skipped, hidden files"
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_small_phone_in_either_colours(
    peopled: httpx.Client, another_checkpoint: Path, open_page: Callable[..., Page], scheme: str
) -> None:
    upload_model(peopled, another_checkpoint)
    page = open_page(peopled)
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    choose(page, "search", upload(drawn(5, 1)))
    expect(page.locator("#search .card").first).to_be_visible()
    page.get_by_text("Narrow the search").click()
    for section in ("search", "enrol", "networks"):
        page.locator(f"nav a[href='#{section}']").click()
        expect(page.locator(f"#{section}")).to_be_visible()
        for summary in page.locator(f"#{section} li summary:visible").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, section
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(value) for value in re.findall(r"\d+", ground)) / 3
    assert (brightness < 64) == (scheme == "dark")


def test_every_control_has_a_name(peopled: httpx.Client, open_page: Callable[..., Page]) -> None:
    page = open_page(peopled)
    choose(page, "search", upload(drawn(1, 1)))
    expect(page.locator("#search .card").first).to_be_visible()
    controls = re.findall(
        r"^ *- (button|textbox|combobox|link|progressbar)\b(.*)", page.aria_snapshot(), re.MULTILINE
    )
    assert len(controls) > 8
    assert [control for control in controls if not control[1].startswith(' "')] == []
