"""`reid keys`, `reid login` and `reid logout`, and what a server asks for before it listens to others."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audited import verified
from command_line import MakeEnv, reid, reid_serve
from keyed import store_of
from live_server import serve
from service.cli.main import app
from service.keys.keys import list_keys
from service.settings import Settings

EVERYWHERE = "0.0.0.0"  # noqa: S104 - the start is refused
HOSTS = {"REID_ALLOWED_HOSTS": "door.example"}
KEY = re.compile(r"reid_[0-9a-f]{12}_[0-9a-f]{64}\n")


def made(folder: Path, *options: str) -> str:
    """Make a key by the command, and return it."""
    ended = reid("keys", "create", *options, "--data-dir", folder)
    assert ended.returncode == 0, ended.stderr
    assert KEY.fullmatch(ended.stdout), ended.stdout
    assert "shown this once" in ended.stderr
    return ended.stdout.strip()


def test_keys_are_made_listed_rotated_and_revoked_without_a_server(tmp_path: Path) -> None:
    old = made(tmp_path, "--name", "Maria", "--role", "admin")
    made(tmp_path, "--name", "desk", "--role", "operator", "--cameras", "door, hall", "--expires", "90d")
    listed = reid("keys", "list", "--data-dir", tmp_path).stdout
    for word in ("Maria", "admin", "door, hall", "until", "for ever", "never"):
        assert word in listed
    assert "reid_" not in listed
    rotated = reid("keys", "rotate", "Maria", "--data-dir", tmp_path).stdout
    assert KEY.fullmatch(rotated)
    assert rotated.strip() != old
    assert "revoked" in reid("keys", "revoke", "desk", "--data-dir", tmp_path).stdout
    assert "revoked" in reid("keys", "list", "--data-dir", tmp_path).stdout
    shown = json.loads(reid("keys", "list", "--json", "--data-dir", tmp_path).stdout)
    assert [(key["name"], key["cameras"]) for key in shown] == [("Maria", None), ("desk", ["door", "hall"])]
    assert "sha256" not in shown[0]
    settings = Settings(data_dir=tmp_path)
    assert verified(settings).num_rows == 4
    assert verified(settings).faults == []
    assert (tmp_path / "gallery.sqlite3").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--name", "", "--role", "admin"], "printable"),
        (["--name", "x", "--role", "admin", "--cameras", "door"], "not limited to cameras"),
        (["--name", "x", "--role", "reader", "--cameras", ","], "cameras"),
        (["--name", "x", "--role", "reader", "--expires", "soon"], "90d"),
        (["--name", "x", "--role", "king"], "king"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_in_a_sentence(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    ended = reid("keys", "create", *options, "--data-dir", tmp_path)
    assert ended.returncode != 0
    assert reason in ended.stdout + ended.stderr
    with store_of(Settings(data_dir=tmp_path)) as store:
        assert not (tmp_path / "gallery.sqlite3").exists() or list_keys(store) == []


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    made(tmp_path, "--name", "Maria", "--role", "admin")
    for command in ("rotate", "revoke"):
        ended = reid("keys", command, "Mario", "--data-dir", tmp_path)
        assert ended.returncode == 1
        assert "no key 'Mario'" in ended.stderr


def test_login_keeps_the_key_for_one_service_in_a_private_file(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    chosen = make_settings(tmp_path / "data")
    kept = tmp_path / "config" / "reid" / "keys.json"
    with serve(chosen) as client:
        url = str(client.base_url).rstrip("/")

        def run(*command: str, typed: str = "", key: str = "") -> str:
            env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "REID_API_KEY": key, "COLUMNS": "300"}
            return CliRunner().invoke(app, [*command, "--url", url], input=typed, env=env).output

        assert "no key was given" in run("login", typed="\n")
        key = made(chosen.data_dir, "--name", "Maria", "--role", "admin")
        assert "asks for a key" in run("erasures")
        assert "not one of this service" in run("login", typed=f"{key[:-1]}x\n")
        assert not kept.exists()
        assert "signed in as Maria (admin)" in run("login", typed=f"{key}\n")
        assert json.loads(kept.read_text()) == {url: key}
        assert kept.stat().st_mode & 0o777 == 0o600
        assert run("erasures") == "[]\n"
        kept.chmod(0o644)
        assert "chmod 600" in run("erasures")
        kept.chmod(0o600)
        assert "no key for" in run("logout")
        assert "asks for a key" in run("erasures")
        assert run("erasures", key=key) == "[]\n"


def test_a_server_for_others_does_not_start_without_a_key(make_env: MakeEnv, tmp_path: Path) -> None:
    refused = reid("serve", "--host", EVERYWHERE, "--port", "0", env=make_env(tmp_path) | HOSTS)
    assert refused.returncode == 1
    assert "no key was made yet" in refused.stderr
    assert "reid keys create --role admin --name NAME" in refused.stderr
    assert "REID_ALLOW_OPEN=true" in refused.stderr


def test_a_server_says_that_it_is_open_until_there_is_a_key(make_env: MakeEnv, tmp_path: Path) -> None:
    env, said = make_env(tmp_path / "data"), "no key was made yet, so everybody"
    with reid_serve(env, tmp_path / "log") as running:
        assert f"{said} on this machine may do everything" in running.printed
    with reid_serve(env | {"REID_ALLOW_OPEN": "true"}, tmp_path / "open") as running:
        assert f"{said} who reaches the port" in running.printed
    made(tmp_path / "data", "--name", "Maria", "--role", "admin")
    with reid_serve(env, tmp_path / "closed") as running:
        assert said not in running.printed
