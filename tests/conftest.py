"""Fixtures that several test modules share: small checkpoints, and a service on a real port."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_server import make_checkpoint, serve

from service.settings import Settings


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny seeded network, 64 dimensions."""
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    make_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def another_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with other weights, 64 dimensions."""
    path = tmp_path_factory.mktemp("checkpoints") / "another.safetensors"
    make_checkpoint(path, seed=1)
    return path


@pytest.fixture
def settings(tmp_path: Path, tiny_checkpoint: Path) -> Settings:
    """Settings of a new gallery that starts with the tiny network."""
    return Settings(data_dir=tmp_path / "data", default_checkpoint=tiny_checkpoint)


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a new, empty gallery on a real port."""
    with serve(settings) as running:
        yield running


@pytest.fixture(scope="module")
def shared_client(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[httpx.Client]:
    """A client of one gallery for all tests of a module; for tests that mind nobody's items."""
    data_dir = tmp_path_factory.mktemp("shared") / "data"
    with serve(Settings(data_dir=data_dir, default_checkpoint=tiny_checkpoint)) as running:
        yield running
