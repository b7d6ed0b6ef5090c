"""H16: a timeline of many visits comes in pages, and misses none while others come and go."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from archives import packed
from live_server import crop, enroll, wait_for_job

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NUM = 60

Between = Callable[[dict[str, Any]], None]


def read_all(client: httpx.Client, limit: int, between: Between | None = None) -> list[dict[str, Any]]:
    visits: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        params: dict[str, str | int] = {"visit_gap_s": 0, "limit": limit, "cursor": cursor}
        page = client.get("/identities/anna/timeline", params=params).json()
        assert len(page["visits"]) <= limit
        visits += page["visits"]
        cursor = page["next_cursor"]
        if between is not None and len(visits) == limit:
            between(page)
    return visits


def fill(client: httpx.Client) -> None:
    rows = [("path", "identity_id", "camera_id", "captured_at")]
    for number in range(NUM):
        at = NOON + timedelta(seconds=number // 4 * 7)  # four cameras at the same moment
        rows.append((f"{number}.jpg", "anna", f"camera {number % 4}", at.isoformat()))
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    members = {"gallery.csv": file.getvalue().encode()} | {f"{n}.jpg": crop(1) for n in range(NUM)}
    answer = client.post(
        "/gallery", files={"archive": ("x", packed("tar", members))}, data={"on_duplicate": "store"}
    )
    assert wait_for_job(client, answer.headers["location"])["num_failed"] == 0


def test_h16_a_timeline_comes_in_pages_and_misses_none(client: httpx.Client) -> None:
    fill(client)
    whole = client.get("/identities/anna/timeline", params={"visit_gap_s": 0}).json()
    assert (len(whole["visits"]), whole["next_cursor"]) == (NUM, None)
    for limit in (1, 7, 30, NUM):
        assert read_all(client, limit) == whole["visits"]

    def change(page: dict[str, Any]) -> None:
        assert client.delete(f"/gallery/{page['visits'][-1]['item_id']}").status_code == 204
        enroll(client, crop(2), identity_id="anna", camera_id="new", captured_at="2026-03-01T11:00:00Z")

    read = read_all(client, 7, change)
    assert [visit["item_id"] for visit in read] == [visit["item_id"] for visit in whole["visits"]]


def test_h16_a_cursor_that_is_none_of_ours_is_refused(shared_client: httpx.Client) -> None:
    enroll(shared_client, crop(3), identity_id="bert")
    for cursor in ("x", "YWZ0ZXIgMg", "YWZ0ZXIgOTk5OTk5OTk5OTk5OTk5OTk5IDE"):
        answer = shared_client.get("/identities/bert/timeline", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert shared_client.get("/identities/bert/timeline", params={"limit": 1001}).status_code == 422
