"""F21, H16: no room for a temporary file, no descriptor left, a database that fails beside a key."""

import asyncio
import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from killed_server import ROOT, wait_for
from live_server import TIMEOUT_S, crop, enroll, find_free_port, images, serve
from service.api.claims import Claim, Claims
from service.api.idempotency import Idempotency
from service.api.rules import RULES
from service.errors import StorageFull, StorageUnavailable, TooManyOpenFiles
from service.settings import Settings
from service.store.database import make_engine, make_sessions, migrate
from service.store.failures import from_temporary_file, to_service_error
from service.store.store import Store

IN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MAY_MOUNT = not subprocess.run([*IN_NAMESPACE, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode
LARGE = b"\xff\xd8" + bytes(1_900_000)


@contextmanager
def serve_after(folder: Path, settings: Settings, line: str) -> Iterator[tuple[httpx.Client, Path]]:
    """Run a server by a shell that has run a line first; its log is the second value."""
    port = find_free_port()
    environment = os.environ | {
        "REID_DATA_DIR": str(settings.data_dir),
        "REID_DEFAULT_CHECKPOINT": str(settings.default_checkpoint),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(folder / "tmp"),
    }
    (folder / "tmp").mkdir()
    server = f"from killed_server import run_server; run_server({port}, is_silent=False)"
    command = [*IN_NAMESPACE, f'{line}; exec "$0" -c "$1"', sys.executable, server]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
            wait_for(client, process)
            yield client, log
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a small disk")
def test_f21_a_full_temporary_folder_is_507_with_a_log_line(settings: Settings, tmp_path: Path) -> None:
    small = f"mount -t tmpfs -o size=1m tmpfs {tmp_path / 'tmp'}"
    with serve_after(tmp_path, settings, small) as (client, log):
        for headers in ({}, {"Idempotency-Key": "once"}):
            for answer in (
                client.post("/gallery", files=images(LARGE), headers=headers),
                client.post("/search", files=images(LARGE), headers=headers),
                client.post("/models", files={"checkpoint": ("x", LARGE)}, headers=headers),
                client.post("/gallery", files={"archive": ("x.tar", LARGE)}, headers=headers),
            ):
                assert (answer.status_code, answer.json()["code"]) == (507, "storage_full"), answer.text
                assert "TMPDIR" in answer.json()["detail"]
        assert log.read_text().count("the body of a request cannot be kept") == 2  # others are refused unread
        enroll(client, crop(1))
        bad = client.post(
            "/gallery", content=b"x", headers={"content-type": "multipart/form-data; boundary=y"}
        )
        assert bad.status_code in (400, 422)


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not set limits in a namespace")
def test_f21_few_descriptors_are_503_with_a_code(settings: Settings, tmp_path: Path) -> None:
    with serve_after(tmp_path, settings, "ulimit -n 64") as (client, log), ExitStack() as connections:
        answer = client.get("/livez")
        while answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            one = httpx.Client(base_url=client.base_url, timeout=TIMEOUT_S)
            connections.enter_context(one)
            with suppress(httpx.TransportError):  # the files of the last request may not be closed yet
                one.get("/livez")  # each connection takes a descriptor
            answer = client.post("/gallery", files=images(*[LARGE[:1_200_000]] * 8))
        assert answer.json()["code"] == "too_many_open_files"
        assert "Traceback" not in log.read_text()
        connections.close()
        enroll(client, crop(1))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EMFILE, TooManyOpenFiles),
        (errno.ENFILE, TooManyOpenFiles),
        (errno.EROFS, StorageUnavailable),
        (errno.ENOENT, StorageUnavailable),
    ],
)
def test_f21_each_failure_of_a_temporary_file_has_its_error(number: int, expected: type[Exception]) -> None:
    assert isinstance(from_temporary_file(OSError(number, os.strerror(number))), expected)


def test_f21_descriptors_that_are_used_up_are_no_defect() -> None:
    assert isinstance(to_service_error(OSError(errno.EMFILE, "too many")), TooManyOpenFiles)


def test_h16_a_table_that_is_gone_is_503_and_not_500(settings: Settings) -> None:
    path = settings.data_dir / "gallery.sqlite3"
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        with sqlite3.connect(path) as other:
            other.execute("ALTER TABLE kept_answers RENAME TO gone")
        answer = client.post("/gallery", files=images(crop(1)), headers={"Idempotency-Key": "a"})
        assert (answer.status_code, answer.json()["code"]) == (503, "database_damaged")
        other.execute("ALTER TABLE gone RENAME TO kept_answers")
        other.commit()
        other.close()
        again = client.post("/gallery", files=images(crop(1)), headers={"Idempotency-Key": "a"})
        assert again.status_code == 201


class Failing(Claims):
    """Claims that cannot be released, as when the database dies while the request is carried out."""

    def release(self, claim: Claim) -> None:
        raise OperationalError("update", {"key": claim.key}, sqlite3.OperationalError("gone"))


@pytest.mark.parametrize("status", [201, 503])
def test_h16_a_true_answer_is_sent_though_its_key_cannot_be_released(settings: Settings, status: int) -> None:
    engine = make_engine(settings.database_url)
    migrate(engine)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"answer", status)(scope, receive, send)

    async def ask() -> list[Message]:
        answer: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x"}

        async def send(message: Message) -> None:
            answer.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/search",
            "query_string": b"",
            "headers": [(b"idempotency-key", b"a")],
            "state": {"request_id": "b", "rule": RULES["POST", "/search"]},
        }
        claims = Failing(Store(settings, make_sessions(engine)))
        await Idempotency(app, claims, require_ready=lambda: None)(scope, receive, send)
        return answer

    start, body = asyncio.run(ask())
    assert (start["status"], body["body"]) == (status, b"answer")
    engine.dispose()
