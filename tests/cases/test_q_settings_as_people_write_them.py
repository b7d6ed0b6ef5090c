"""Q: settings as files of variables and Kubernetes give them are understood or told, never ignored."""

from pathlib import Path

import pytest

from command_line import reid
from live_server import find_free_port
from service.errors import BadSettings
from service.settings import read_settings, unknown_variables
from training.weights.deployment import DeployError, check_connection


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("field", ["data_dir", "models_dir", "default_checkpoint"])
def test_q_a_tilde_that_no_shell_has_read_is_the_home_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setenv(f"REID_{field.upper()}", "~/reid data")
    settings = read_settings()
    assert getattr(settings, field) == home / "reid data"
    if field == "data_dir":
        assert str(home / "reid data" / "gallery.sqlite3") in settings.database_url
        assert settings.models_dir == home / "reid data" / "models"


def test_q_the_home_of_a_user_who_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_DATA_DIR", "~nobody-has-this-name/data")
    with pytest.raises(BadSettings, match="begins with ~"):
        read_settings()


@pytest.mark.parametrize("quote", ['"', "'"])
def test_q_quotes_that_no_shell_has_taken_away_are_told(monkeypatch: pytest.MonkeyPatch, quote: str) -> None:
    monkeypatch.setenv("REID_DATA_DIR", f"{quote}/var/lib/reid{quote}")
    with pytest.raises(BadSettings, match="stands in quotes; write it without them: /var/lib/reid"):
        read_settings()


def test_q_the_port_that_kubernetes_sets_for_a_service_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_PORT", "tcp://10.96.0.12:8000")
    with pytest.raises(BadSettings, match=r"REID_PORT: Kubernetes has set it .* enableServiceLinks: false"):
        read_settings()
    monkeypatch.setenv("REID_PORT", "8001")
    assert read_settings().port == 8001


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_q_a_secret_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    url = "postgresql+psycopg://reid:pass word @host/gallery"
    secret = tmp_path / "database_url"
    secret.write_bytes(f"{url}{end}".encode())
    monkeypatch.setenv("REID_DATABASE_URL_FILE", str(secret))
    monkeypatch.setenv("REID_DATABASE_URL", "")  # empty is not set
    assert read_settings().database_url == url
    assert "REID_DATABASE_URL_FILE" not in unknown_variables()
    monkeypatch.setenv("REID_DATABASE_URL", url)
    with pytest.raises(BadSettings, match="REID_DATABASE_URL and REID_DATABASE_URL_FILE are both set"):
        read_settings()


def test_q_a_file_of_a_secret_that_cannot_be_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_DATABASE_URL_FILE", str(tmp_path / "absent"))
    with pytest.raises(BadSettings, match=r"REID_DATABASE_URL_FILE: .*absent cannot be read: No such file"):
        read_settings()
    monkeypatch.setenv("REID_DATABASE_URL_FILE", str(tmp_path))
    with pytest.raises(BadSettings, match=r"REID_DATABASE_URL_FILE: .* cannot be read: "):
        read_settings()
    (tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("REID_DATABASE_URL_FILE", str(tmp_path / "secret"))
    with pytest.raises(BadSettings, match="REID_DATABASE_URL: not a database URL") as told:
        read_settings()
    assert "hunter2" not in str(told.value)  # it may be a password


def test_q_what_is_no_setting_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    before = unknown_variables()
    for name in (
        "REID_RETENTION_DAY",
        "REID_URL",
        "REID_SERVICE_HOST",
        "REID_PORT_8000_TCP_ADDR",
        "reid_index",
    ):
        monkeypatch.setenv(name, "1")
    assert sorted({*unknown_variables()} - {*before}) == ["REID_RETENTION_DAY"]


def test_q_a_misspelt_setting_is_named_at_the_start(tmp_path: Path) -> None:
    env = {
        "REID_DATA_DIR": str(tmp_path / "data"),
        "REID_RETENTION_DAY": "30",
        "REID_PORT": str(find_free_port()),
        "REID_DEVICE": "cuda",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "140",
    }
    done = reid("serve", env=env)
    assert done.returncode == 1  # a device that is not there ends the start early
    said = "REID_RETENTION_DAY is not a setting and has no effect; did you mean REID_RETENTION_DAYS?"
    assert said in done.stderr


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1", "ftp://127.0.0.1", "http://127.0.0.1?x=1"])
def test_q_a_long_training_does_not_begin_with_a_url_that_cannot_be_one(url: str) -> None:
    with pytest.raises(DeployError, match="is not the URL of a service: write it as http://host:8000"):
        check_connection(url)
