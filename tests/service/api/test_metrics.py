"""GET /metrics: what is counted, what no label may hold, and that it answers whatever else fails."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from live_server import crop, enroll, images, search, serve, wait_until
from scraped import samples, scrape
from service.cli.worker_metrics import shared_metrics
from service.metrics import FOLDER_VARIABLE
from service.settings import Settings


def requests(route: str, status: int, method: str = "GET") -> str:
    return f'reid_http_requests_total{{method="{method}",route="{route}",status="{status}"}}'


def rename(settings: Settings, table: str, to: str) -> None:
    with closing(sqlite3.connect(settings.data_dir / "gallery.sqlite3", timeout=30)) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO {to}")


def stage(name: str) -> str:
    return f'reid_stage_seconds_count{{stage="{name}"}}'


def test_requests_are_counted_by_the_template_of_their_route(shared_client: httpx.Client) -> None:
    before = scrape(shared_client)
    (item,) = enroll(shared_client, crop(1), identity_id="anna")
    shared_client.get(f"/gallery/{item['id']}")
    shared_client.get("/gallery/absent")
    shared_client.head("/identities/anna")
    shared_client.get("/identities/a%2Fb")
    shared_client.get("/web/api.js")
    shared_client.get("/no/such/path")
    shared_client.get("/gallery", headers={"Host": "evil.example.org"})
    shared_client.request("PROPFIND", "/gallery")
    after = scrape(shared_client)
    counted = {
        name for name in after if name.startswith("reid_http_requests_total") and after[name] > before[name]
    }
    assert counted == {
        requests("/gallery", 201, "POST"),
        requests("/gallery/{item_id}", 200),
        requests("/gallery/{item_id}", 404),
        requests("/identities/{identity_id}", 200, "HEAD"),
        requests("/identities/{identity_id}", 404),
        requests("/web/{path:path}", 200),
        requests("other", 404),
        requests("/gallery", 421),
        requests("/gallery", 405, "other"),
        requests("/metrics", 200),
    }
    seconds = 'reid_http_request_seconds_count{method="POST",route="/gallery"}'
    assert after[seconds] - before[seconds] == 1


def test_the_stages_and_the_batches_of_an_enrolment_and_a_search_are_measured(client: httpx.Client) -> None:
    before = scrape(client)
    enroll(client, *(crop(seed) for seed in range(20)), identity_id="anna")
    enrolled = scrape(client)
    search(client, crop(1), crop(1, 1))
    searched = scrape(client)

    def grown(name: str) -> tuple[float, float]:
        return enrolled[name] - before[name], searched[name] - enrolled[name]

    assert grown(stage("decode")) == (20, 2)
    assert grown(stage("embed")) == (2, 1)
    assert grown("reid_batch_crops_sum") == (20, 2)
    assert grown('reid_batch_crops_bucket{le="4.0"}') == (1, 1)
    assert grown(stage("search"))[1] == 1
    assert min(grown(stage("database"))) >= 1
    assert min(grown(stage("queue"))) >= 1
    spent_s = (
        searched['reid_stage_seconds_sum{stage="embed"}'] - enrolled['reid_stage_seconds_sum{stage="embed"}']
    )
    assert 0 < spent_s < 60
    assert (searched["reid_items"], searched["reid_identities"]) == (20, 1)
    assert searched["reid_newest_change"] == enrolled["reid_newest_change"] >= 20
    replica = 'reid_replica_newest_change{index="active"}'
    wait_until(lambda: scrape(client)[replica] == searched["reid_newest_change"])  # other servers set it too
    ready = client.get("/readyz").json()
    (generation,) = (name for name in searched if name.startswith("reid_generation_info"))
    assert f'model_version="{ready["model_version"]}"' in generation
    assert f'runtime="{ready["runtime"]}"' in generation
    assert 'index_kind="exact"' in generation


def test_jobs_are_counted_by_kind_and_state(client: httpx.Client) -> None:
    before = scrape(client)
    accepted = client.post("/gallery", files=images(crop(1)), headers={"Prefer": "respond-async"})
    ended = 'reid_jobs_ended_total{kind="import",state="succeeded"}'
    wait_until(lambda: scrape(client)[ended] > before[ended])
    wait_until(lambda: client.get(accepted.headers["location"]).json()["state"] == "succeeded")
    assert scrape(client)['reid_jobs{kind="import",state="succeeded"}'] == 1
    assert scrape(client)["reid_backfill_items_left"] == 0


def test_no_label_and_no_number_of_series_depends_on_what_is_asked(shared_client: httpx.Client) -> None:
    (item,) = enroll(shared_client, crop(2), identity_id="berta", camera_id="door", track_id="t7")
    shared_client.get(f"/gallery/{item['id']}")
    num_series = []
    for num in (1, 20):
        for number in range(num):
            shared_client.get(f"/no/such/path/{number}")
            shared_client.get(f"/gallery/{number}")
            shared_client.get("/identities/berta", params={"number": number})
        num_series.append(len(scrape(shared_client)))
    assert num_series[0] == num_series[1]
    answer = shared_client.get("/metrics")
    values = {value for _, labels, _ in samples(answer.text) for value in labels.values()}
    assert not values & {item["id"], item["sha256"], "berta", "door", "t7", "evil.example.org"}
    assert not [value for value in values if "/" in value and any(sign.isdecimal() for sign in value)]


def test_it_answers_where_nothing_can_be_searched(settings: Settings) -> None:
    with serve(settings):
        pass  # which registers the network
    for network in settings.models_dir.iterdir():
        network.unlink()
    with serve(settings, wait=False) as client:
        wait_until(lambda: client.get("/metrics").status_code == 200)  # the database is open
        assert client.get("/readyz").json()["code"] == "not_ready"
        found = scrape(client)
        assert found['reid_disk_free_bytes{folder="data"}'] > 0
        assert not [name for name in found if name.startswith(("reid_items", "reid_generation"))]


def test_what_cannot_be_read_is_left_out_and_counted(settings: Settings) -> None:
    errors = 'reid_scrape_errors_total{source="database"}'
    with serve(settings) as client:
        enroll(client, crop(1))
        before = scrape(client)
        rename(settings, "retention", "elsewhere")
        broken = scrape(client)
        assert broken[errors] == before[errors] + 1
        assert broken["reid_items"] == 1
        assert "reid_identities" in before
        assert "reid_identities" not in broken
        rename(settings, "elsewhere", "retention")
        assert scrape(client)["reid_identities"] == 1


@pytest.mark.parametrize("has_memory", [True, False])
def test_the_folder_of_the_workers_is_private_and_goes_with_them(tmp_path: Path, has_memory: bool) -> None:
    cache, memory = tmp_path / "cache", tmp_path / "memory"
    if has_memory:
        memory.mkdir()
    with shared_metrics(cache, memory):
        folder = Path(os.environ[FOLDER_VARIABLE])
        assert folder.is_relative_to(memory if has_memory else cache)
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
    assert FOLDER_VARIABLE not in os.environ


def test_a_folder_in_memory_that_others_can_enter_is_not_used(tmp_path: Path) -> None:
    (tmp_path / f"reid-gallery-{os.geteuid()}").mkdir(0o755)
    with shared_metrics(tmp_path / "cache", tmp_path):
        assert Path(os.environ[FOLDER_VARIABLE]).parent == tmp_path / "cache"
