"""Q: every message prints on a terminal without Unicode; H16: log lines of several workers stay whole."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from sqlalchemy import text

from command_line import ROOT, reid
from live_server import serve, wait_until
from service.cli import terminal
from service.cli.logs import WholeLines
from service.errors import BadBackup, NewerDatabase
from service.settings import Settings
from service.store.database import make_engine, migrate
from service.upkeep.backup import open_gallery

PERSIAN = "نگهبانِ در"
ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]

PRINT_ALL = f"""
from service.cli import terminal
from service.cli.logs import log_to_terminal
from service.client import Match, MatchedItem, SearchAnswer, SearchCalibration
import structlog
log_to_terminal()
name = {PERSIAN!a}
structlog.get_logger("x").warning(name, name=name)
item = MatchedItem.model_construct(camera_id=name, captured_at=None)
match = Match.model_construct(
    rank=1, identity_id=name * 9, score=0.5, expected_strangers=None, decision=None, items=[item]
)
calibration = SearchCalibration.model_construct(source="none")
found = SearchAnswer.model_construct(
    matches=[match], num_searched=1, num_identities=1, took_ms=1.0, model_version="x", calibration=calibration
)
terminal.print_matches(found)
terminal.print_line(terminal.out, name + " \\u2192 \\u201cx\\u201d \\u2713")
with terminal.progress_bar() as on_progress:
    on_progress(1, 2)
"""


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda one: next(iter(one.values())))
def test_q_tables_messages_and_logs_print_on_any_terminal(encoding: dict[str, str]) -> None:
    env = {**os.environ, "COLUMNS": "100", **encoding}
    command = [sys.executable, "-c", PRINT_ALL]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"identity" in done.stdout
    assert b"?" in done.stdout
    assert "Traceback" not in done.stderr.decode("latin-1")


def test_q_a_wrong_name_on_an_ascii_terminal_is_a_sentence(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = reid("search", tmp_path / PERSIAN, env=env)
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_q_a_stream_that_cannot_be_set_up_stays() -> None:
    stream = io.StringIO()
    with redirect_stdout(stream):
        terminal.replace_unprintable()
        print(PERSIAN)
    assert stream.getvalue() == f"{PERSIAN}\n"


def test_q_a_log_that_nobody_reads_any_more_fails_no_request() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        WholeLines(stream).write("lost\n")
    closed = io.StringIO()
    closed.close()
    WholeLines(closed).write("lost\n")


WRITE_EVENTS = """
import os, sys, structlog, logging
from service.cli.logs import log_to_terminal
log_to_terminal()
log = structlog.get_logger("x")
for number in range(150):
    log.info("event " + "x" * 150, end="yz")
    logging.getLogger("y").warning("warning " + "x" * 150 + " end=yz")
"""


def test_h16_log_lines_of_several_processes_do_not_run_together(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-c", WRITE_EVENTS]
        workers = [subprocess.Popen(command, cwd=ROOT, stderr=file) for _ in range(3)]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == 3 * 300
    assert all(line.count("end=") == 1 and line.endswith("yz") for line in lines)


def test_h16_a_newer_schema_is_one_sentence(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    engine = make_engine(settings.database_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NewerDatabase, match="schema 9999"):
        migrate(engine)
    engine.dispose()
    with pytest.raises(BadBackup, match="schema 9999"):
        open_gallery(settings)
    with serve(settings, wait=False) as client:
        wait_until(lambda: "being loaded" not in client.get("/readyz").text)
        assert "schema 9999" in client.get("/readyz").json()["detail"]


@pytest.mark.parametrize("options", ["nothing=1", "sslmode=wrong"])
def test_q_a_wrong_option_of_postgres_is_a_sentence(tmp_path: Path, options: str) -> None:
    url = f"postgresql+psycopg://reid@127.0.0.1/gallery?{options}"
    with serve(Settings(data_dir=tmp_path / "data", database_url=url), wait=False) as client:
        wait_until(lambda: "being loaded" not in client.get("/readyz").text)
        detail = client.get("/readyz").json()["detail"]
    assert "REID_DATABASE_URL" in detail
    assert "Error" not in detail
