"""Starting, failing to start, and starting again after the power went."""

import os
from pathlib import Path

import httpx
import pytest

from live_server import crop, enroll, find_free_port, search, serve, wait_until, wait_until_ready
from service.api.app import create_app
from service.errors import BadSettings
from service.settings import Settings, read_settings


def wait_until_failed(client: httpx.Client) -> httpx.Response:
    wait_until(lambda: "being loaded" not in client.get("/readyz").text)
    return client.get("/readyz")


def test_the_process_answers_while_it_loads(settings: Settings) -> None:
    with serve(settings, wait=False) as client:
        assert client.get("/livez").status_code == 200
        early = client.get("/readyz")
        if early.status_code != 200:
            assert (early.status_code, early.json()["code"]) == (503, "not_ready")
            assert "retry-after" in early.headers
        wait_until_ready(client)
        ready = client.get("/readyz").json()
        assert ready["status"] == "ready"
        assert ready["num_items"] == 0


def test_a_start_that_fails_says_why_and_keeps_saying_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, default_checkpoint=tmp_path / "absent.safetensors")
    with serve(settings, wait=False) as client:
        answer = wait_until_failed(client)
        assert answer.status_code == 503
        assert "absent.safetensors" in answer.json()["detail"]
        assert client.get("/livez").status_code == 200
        assert client.get("/models").json()["code"] == "not_ready"
        keyed = client.post("/gallery", headers={"Idempotency-Key": "a"})
        assert (keyed.status_code, keyed.json()["code"]) == (503, "not_ready")
        assert client.post("/search", files={"images": b"x"}).status_code == 503


def test_a_network_whose_file_has_changed_is_not_served(settings: Settings, another_checkpoint: Path) -> None:
    with serve(settings) as client:
        version = client.get("/readyz").json()["model_version"]
    (settings.models_dir / f"{version}.safetensors").write_bytes(another_checkpoint.read_bytes())
    with serve(settings, wait=False) as client:
        answer = wait_until_failed(client)
        assert "has changed" in answer.json()["detail"]


def test_the_gallery_is_found_again_after_a_restart(settings: Settings) -> None:
    with serve(settings) as client:
        for seed in range(5):
            enroll(client, crop(seed), identity_id=f"p{seed}", camera_id=str(seed))
        before = search(client, crop(2, 1), exclude_camera_id="4")
    with serve(settings) as client:
        after = search(client, crop(2, 1), exclude_camera_id="4")
    for volatile in ("request_id", "took_ms"):
        before.pop(volatile)
        after.pop(volatile)
    assert after == before


def test_building_the_app_touches_nothing(tmp_path: Path) -> None:
    create_app(Settings(data_dir=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REID_DEVICE", "toaster"),
        ("REID_PRECISION", "int3"),
        ("REID_PORT", "70000"),
        ("REID_MAX_UPLOAD_BYTES", "ten"),
        ("REID_MAX_PIXELS", "0"),
        ("REID_NEAR_DUPLICATE", "never"),
        ("REID_DATABASE_URL", "foo"),
        ("REID_DATABASE_URL", "mysql://x/y"),
        ("REID_DATABASE_URL", "postgresql://localhost/gallery"),
        ("REID_DATABASE_URL", "postgresql+psycopg://u:p@host:port/x"),
        ("REID_DATABASE_URL", "postgresql+psycopg://u:p@host/x?port=banana"),
        ("REID_DATABASE_URL", "sqlite://"),
        ("REID_DATABASE_URL", "sqlite:///:memory:"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=name):
        read_settings()


@pytest.mark.parametrize("word", ["none", "off", "OFF"])
def test_near_duplicates_can_be_switched_off(word: str, tmp_path: Path) -> None:
    assert Settings.model_validate({"data_dir": tmp_path, "near_duplicate": word}).near_duplicate is None


def why_no_start(settings: Settings) -> str:
    """Start a server that cannot, and return the line it says; an unforeseen failure has its type in it."""
    with serve(settings, wait=False) as client:
        detail: str = wait_until_failed(client).json()["detail"]
    assert "Error" not in detail
    assert "\n" not in detail
    return detail


def test_a_start_says_in_a_sentence_what_is_wrong_with_database_or_folder(tmp_path: Path) -> None:
    nobody = f"postgresql+psycopg://reid@127.0.0.1:{find_free_port()}/gallery"
    refused = why_no_start(Settings(data_dir=tmp_path / "data", database_url=nobody))
    assert "refused" in refused
    assert "REID_DATABASE_URL" in refused
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in why_no_start(Settings(data_dir=tmp_path / "file"))
    assert str(tmp_path / "file") in why_no_start(Settings(data_dir=tmp_path / "file" / "data"))
    damaged = Settings(data_dir=tmp_path / "damaged")
    damaged.data_dir.mkdir()
    (damaged.data_dir / "gallery.sqlite3").write_bytes(b"no database" * 1_000)
    assert "reid check" in why_no_start(damaged)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_DATA_DIR", "/somewhere")
    monkeypatch.setenv("REID_PORT", "")
    settings = read_settings()
    assert settings.models_dir == Path("/somewhere/models")
    assert settings.database_url == "sqlite:////somewhere/gallery.sqlite3"
    assert settings.port == 8000


def test_what_an_interrupted_upload_has_left_is_removed_at_the_start(settings: Settings) -> None:
    settings.models_dir.mkdir(parents=True)
    left = settings.models_dir / ".0123456789abcdef.safetensors"
    left.write_bytes(b"half a checkpoint")
    os.utime(left, times=(0, 0))
    under_way = settings.models_dir / ".fedcba9876543210.safetensors"
    under_way.write_bytes(b"half a checkpoint that another process is writing")
    with serve(settings):
        assert not left.exists()
        assert under_way.exists()
