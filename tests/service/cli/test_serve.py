"""`reid serve`: what it prints, why it does not start, and how it ends."""

import http.client
import json
import os
import re
import signal
import subprocess
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from certificates import Certificate
from command_line import (
    REID,
    ROOT,
    MakeEnv,
    Server,
    put,
    read_until,
    reid,
    reid_serve,
    reid_serve_by_workers,
)
from live_server import TIMEOUT_S, crop, enroll, wait_until


def test_serve_says_what_it_serves_and_three_commands_to_try(server: Server) -> None:
    assert "0 items in the gallery" in server.printed
    tries = [line for line in server.printed.splitlines() if line.startswith("  ")]
    assert len(tries) == 3
    assert all(server.url in line for line in tries)


def test_a_port_in_use_is_told_in_a_sentence(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = reid("serve", "--port", port, "--data-dir", tmp_path)
    assert done.returncode == 1
    assert re.search(rf"port {port}: .*in use", done.stdout + done.stderr)


def test_a_checkpoint_that_cannot_be_served_ends_the_start_with_a_sentence(
    make_env: MakeEnv, tmp_path: Path
) -> None:
    torn = put(tmp_path / "torn.safetensors", b"not a checkpoint")
    env = {**make_env(tmp_path / "data"), "REID_DEFAULT_CHECKPOINT": str(torn)}
    done = reid("serve", "--port", "0", env=env)
    assert done.returncode == 1
    assert "start failed" in done.stderr


def test_a_setting_without_a_usable_value_is_named() -> None:
    done = reid("serve", env={**os.environ, "REID_PORT": "banana"})
    assert done.returncode == 1
    assert "REID_PORT" in done.stdout + done.stderr


def is_refused(server: Server) -> bool:
    try:
        httpx.get(f"{server.url}/livez")
    except httpx.TransportError:
        return True
    return False


def test_after_ctrl_c_a_request_that_is_under_way_is_finished(make_env: MakeEnv, tmp_path: Path) -> None:
    form = httpx.Request("POST", "http://service/gallery", files={"images": ("a.jpg", crop(1))})
    body = form.read()
    with reid_serve(make_env(tmp_path / "data"), tmp_path / "log") as running:
        connection = http.client.HTTPConnection(running.address, timeout=TIMEOUT_S)
        connection.putrequest("POST", "/gallery")
        for name in ("content-type", "content-length"):
            connection.putheader(name, form.headers[name])
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it is under way
        connection.send(body[:100])
        running.process.send_signal(signal.SIGINT)
        wait_until(lambda: is_refused(running))
        connection.send(body[100:])
        assert connection.getresponse().status == 201
        connection.close()
        told = read_until(running.log, "stopped")
        assert told.endswith("stopped\n"), (tmp_path / "log").read_text()
        assert running.process.wait(TIMEOUT_S) == 0


def test_workers_on_one_port_answer_alike_by_tls_too(
    make_env: MakeEnv, certificate: Certificate, tmp_path: Path, is_long: bool
) -> None:
    num_workers, tls = 3 if is_long else 2, certificate.for_clients()
    env = make_env(tmp_path / "data") | certificate.settings()
    with reid_serve_by_workers(env, tmp_path / "log", num_workers) as running:
        for _ in range(num_workers - 1):
            read_until(running.log, "items in the gallery")
        ids = []
        for seed in range(12):  # a connection each: whichever worker takes it
            files = {"images": ("a.jpg", crop(seed))}
            answer = httpx.post(f"{running.url}/gallery", files=files, verify=tls, timeout=60)
            ids.append(answer.json()["items"][0]["id"])
            form = {"group_by": "item", "top_k": 100}
            found = httpx.post(f"{running.url}/search", files=files, data=form, verify=tls)
            assert {match["items"][0]["id"] for match in found.json()["matches"]} == set(ids)
        running.process.send_signal(signal.SIGTERM)
        assert "Traceback" not in read_until(running.log, "stopped")
        assert running.process.wait(TIMEOUT_S) == 0


def test_workers_that_cannot_start_end_with_the_reason(make_env: MakeEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path / "data") | {"REID_DEFAULT_CHECKPOINT": str(tmp_path / "absent.safetensors")}
    command = [*REID, "serve", "--port", "0", "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=TIMEOUT_S)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "absent.safetensors does not exist" in done.stdout + done.stderr


FORGED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/x"}


def test_log_lines_for_programs_are_json_and_say_who_asked_what(make_env: MakeEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path / "data") | {"REID_LOG_FORMAT": "json", "REID_ALLOW_OPEN": "true"}
    with reid_serve(env, tmp_path / "log", until='"event": "ready"') as running:
        for path in ("/livez", "/web/api.js", "/gallery", "/gallery/x/image"):
            httpx.get(f"{running.url}{path}", headers=FORGED | {"X-Request-ID": "mine"})
        running.process.send_signal(signal.SIGTERM)
        lines = [
            json.loads(line) for line in (running.printed + read_until(running.log, "stopped")).splitlines()
        ]
    assert [line["event"] for line in lines][0 :: len(lines) - 1] == ["starting", "stopped"]
    assert {"loading the network", "ready"} <= {line["event"] for line in lines}
    assert all(datetime.fromisoformat(line["timestamp"]).tzinfo for line in lines)
    asked = [line for line in lines if line["event"] == "request"]
    assert [(line["path"], line["status"], line["level"]) for line in asked] == [
        ("/gallery", 200, "info"),
        ("/gallery/x/image", 404, "info"),  # a failure is told, though pictures that are shown are not
    ]
    assert all((line["request_id"], line["address"]) == ("mine", "127.0.0.1") for line in asked)


@pytest.mark.parametrize(("level", "paths"), [("debug", ["/livez", "/gallery"]), ("warning", [])])
def test_the_level_decides_what_is_logged(
    make_env: MakeEnv, tmp_path: Path, level: str, paths: list[str]
) -> None:
    with reid_serve(make_env(tmp_path / "data") | {"REID_LOG_LEVEL": level}, tmp_path / "log") as running:
        for path in ("/livez", "/gallery"):
            httpx.get(f"{running.url}{path}")
        running.process.send_signal(signal.SIGTERM)
        told = read_until(running.log, "stopped")
    assert re.findall(r"path=(\S+)", told) == paths


def modes(folder: Path) -> set[int]:
    """Return the permissions of everything in a folder that are not its owner's."""
    return {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")]}


def test_nobody_else_reads_the_data_folder(make_env: MakeEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path / "made first") | {"REID_DATA_DIR": str(tmp_path / "data")}
    with reid_serve(env, tmp_path / "log") as running, httpx.Client(base_url=running.url) as client:
        enroll(client, crop(1))
        assert modes(tmp_path / "data") == {0}
        assert "can read the crops" not in running.printed
    backup = tmp_path / "backup.tar"
    assert reid("backup", backup, "--data-dir", tmp_path / "data").returncode == 0
    assert reid("restore", backup, "--data-dir", tmp_path / "restored").returncode == 0
    assert modes(backup) | modes(tmp_path / "restored") == {0}


def test_a_data_folder_that_others_can_read_is_told(make_env: MakeEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path / "the data")
    (tmp_path / "the data").chmod(0o755)
    with reid_serve(env, tmp_path / "log") as running:
        assert f"chmod -R o= '{tmp_path / 'the data'}'" in running.printed
    for path in [tmp_path / "the data", *(tmp_path / "the data").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o007)
    with reid_serve(env, tmp_path / "second log") as running:
        assert "can read the crops" not in running.printed


def test_the_versions_are_told(server: Server) -> None:
    answer = httpx.get(f"{server.url}/version").json()
    assert answer["model_version"] == httpx.get(f"{server.url}/readyz").json()["model_version"]
    printed = reid("--version").stdout
    assert (
        printed
        == f"reid-gallery {answer['program']}, API {answer['api']}, schema {answer['schema_version']}\n"
    )
