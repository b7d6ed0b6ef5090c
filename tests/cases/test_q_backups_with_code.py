"""Backups whose sums are right and whose tables run code of their own, or hold rows that nobody can read."""

import sqlite3
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import func, select

from backed_up import back_up
from live_server import crop, enroll, serve
from service.errors import BadBackup
from service.settings import Settings
from service.store.database import make_engine
from service.store.tables import Item
from service.upkeep.backup_file import SUMS, TABLES, Writer, sums_of
from service.upkeep.restore import restore

ENDLESS_VIEW = """
    ALTER TABLE jobs RENAME TO own;
    CREATE VIEW jobs AS WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
    SELECT own.* FROM own, numbers"""
TRIGGER = "CREATE TRIGGER loses AFTER UPDATE ON items BEGIN DELETE FROM items; END"


VIEW_OR_TRIGGER = "has a view or trigger, which would be run"
UNREADABLE = "is damaged: its tables cannot be read"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (ENDLESS_VIEW, VIEW_OR_TRIGGER),
        (TRIGGER, VIEW_OR_TRIGGER),
        ("UPDATE models SET card = '[[['", UNREADABLE),
        ("UPDATE items SET created_at = 'yesterday'", UNREADABLE),
        ("PRAGMA foreign_keys = 0; DELETE FROM identities", UNREADABLE),
        ("DELETE FROM galleries", UNREADABLE),
        ("INSERT INTO alembic_version VALUES ('ffff')", UNREADABLE),
        ("DELETE FROM alembic_version", "are not those of a gallery"),
    ],
    ids=["view", "trigger", "card", "time", "no identities", "no gallery", "two schemas", "no schema"],
)
def test_q_a_backup_whose_tables_are_not_ours_is_refused_in_a_sentence(
    settings: Settings, tmp_path: Path, code: str, reason: str
) -> None:
    with serve(settings) as client:
        enroll(client, crop(1))
    path = tmp_path / "backup.tar"
    back_up(settings, path)
    with tarfile.open(path) as archive:
        files = {info.name: archive.extractfile(info) for info in archive}
        members = {name: file.read() for name, file in files.items() if file is not None}
    tables = tmp_path / "tables.sqlite3"
    tables.write_bytes(members[TABLES])
    connection = sqlite3.connect(tables)
    connection.executescript(code)
    connection.close()
    members[TABLES] = tables.read_bytes()
    with tarfile.open(tmp_path / "spoilt.tar", "w") as archive:
        writer = Writer(archive)
        for member, content in members.items():
            if member != SUMS:
                writer.add(member, content)
        writer.add(SUMS, sums_of(writer.sums))
    with pytest.raises(BadBackup, match=reason):
        restore(Settings(data_dir=tmp_path / "target"), tmp_path / "spoilt.tar")
    engine = make_engine(Settings(data_dir=tmp_path / "target").database_url)
    with engine.connect() as target:
        assert target.scalar(select(func.count()).select_from(Item)) == 0
    engine.dispose()
