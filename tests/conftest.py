"""Fixtures that several test modules share: small checkpoints, and a service on a real port."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import structlog

from live_server import make_checkpoint, serve
from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from service.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def _no_log_between_tests() -> None:
    """Keep what the servers log, from threads of their own, out of pytest's progress."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


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
def make_settings(checkpoints: Path) -> Callable[..., Settings]:
    """Settings of a new gallery in a folder, that starts with the tiny network, already converted."""

    def make(data_dir: Path, **fields: object) -> Settings:
        shutil.copytree(checkpoints / "cache", data_dir / "cache")
        chosen = {"data_dir": data_dir, "default_checkpoint": checkpoints / "tiny.safetensors"}
        return Settings.model_validate(chosen | fields)

    return make


@pytest.fixture
def settings(tmp_path: Path, make_settings: Callable[..., Settings]) -> Settings:
    """Settings of a new gallery that starts with the tiny network."""
    return make_settings(tmp_path / "data")


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a new, empty gallery on a real port."""
    with serve(settings) as running:
        yield running


@pytest.fixture(scope="module")
def shared_client(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    """A client of one gallery for all tests of a module; for tests that mind nobody's items."""
    with serve(make_settings(tmp_path_factory.mktemp("shared") / "data")) as running:
        yield running
