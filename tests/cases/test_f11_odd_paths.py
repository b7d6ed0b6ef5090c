"""F11: the database lies in the data folder, whatever characters the path of the folder has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import URL
from sqlalchemy.engine import make_url

from command_line import ROOT
from service.errors import BadSettings
from service.settings import Settings, read_settings
from service.store.database import make_engine, make_sessions, migrate, require_file, sqlite_file
from service.store.store import Store
from service.upkeep.backup import backup, open_gallery
from service.upkeep.claim import claim_folder
from service.upkeep.restore import restore

NAMES = [
    "was ist das?",
    "a#b",
    "50%",
    "100%25",
    "%s %(here)s",
    "Überwachung گالری",
    "-x",
    "--data-dir=y",
    "file:x",
    "x?mode=memory",
    "a&b=c;d",
    ":memory:",
    "back\\slash",
    "quote'\"quote",
    "new\nline",
    "~",
    "$HOME",
]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_f11_a_gallery_lives_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    settings = Settings(data_dir=tmp_path / name / "data")
    engine = make_engine(settings.database_url)
    migrate(engine)
    store = Store(settings, make_sessions(engine))
    claim_folder(store)
    backup(store, tmp_path / "backup")
    engine.dispose()
    assert names_in(tmp_path) == {name, "backup"}
    assert names_in(settings.data_dir) == {"gallery.sqlite3", "gallery-id"}
    require_file(settings.database_url)
    again = open_gallery(settings)
    backup(again, settings.data_dir / "backup")
    again.sessions.engine.dispose()
    other = Settings(data_dir=tmp_path / name / "restored")
    restore(other, settings.data_dir / "backup")
    assert "gallery.sqlite3" in names_in(other.data_dir)
    assert names_in(tmp_path) == {name, "backup"}


@pytest.mark.parametrize("name", ["-x", "file:x", ":memory:", "a?b=c"])
def test_f11_a_relative_folder_of_an_odd_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(data_dir=Path(name))
    engine = make_engine(settings.database_url)
    migrate(engine)
    engine.dispose()
    assert names_in(tmp_path / name) == {"gallery.sqlite3"}
    assert names_in(tmp_path) == {name}


def test_f11_alembic_finds_the_same_database(tmp_path: Path) -> None:
    data_dir = tmp_path / "was ist das? 50%25"
    env = {**os.environ, "REID_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    assert names_in(data_dir) == {"gallery.sqlite3"}
    assert names_in(tmp_path) == {data_dir.name}


@pytest.mark.parametrize("name", NAMES)
def test_f11_a_url_that_sqlalchemy_has_built_names_the_same_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name / "g.sqlite3"
    monkeypatch.setenv("REID_DATABASE_URL", URL.create("sqlite", database=str(path)).render_as_string(False))
    assert sqlite_file(read_settings().database_url) == path


def test_f11_a_url_of_postgres_keeps_its_password_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    url = URL.create(
        "postgresql+psycopg",
        "an:na@x",
        "p/?#%:@ ü",
        "db.example",
        5433,
        "gal?lery%20#1",
        {"sslmode": "prefer"},
    )
    monkeypatch.setenv("REID_DATABASE_URL", url.render_as_string(hide_password=False))
    assert make_url(read_settings().database_url) == url
    assert make_engine(read_settings().database_url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////x/was ist das?/gallery.sqlite3",
        "sqlite:////x/was?a=b/gallery.sqlite3",
        "sqlite:////x/gallery.sqlite3?",
        "sqlite:///file:/x/gallery.sqlite3?uri=true&mode=memory",
    ],
)
def test_f11_a_url_whose_path_would_be_cut_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_DATABASE_URL", url)
    with pytest.raises(BadSettings, match="%3F"):
        read_settings()
