"""Snapshots of the index: used when they fit, passed over when they do not, and never believed blindly."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from live_server import crop, enroll, search, serve
from service.settings import Settings
from service.store.database import make_engine


def forget_embeddings(settings: Settings) -> None:
    """Delete every embedding behind the log's back: an index has them from a snapshot or not at all."""
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM embeddings"))
    engine.dispose()


def num_searched(settings: Settings) -> int:
    with serve(settings) as client:
        found: int = search(client, crop(0))["num_searched"]
        return found


def fill(settings: Settings, num: int = 5) -> list[str]:
    with serve(settings) as client:
        return [item["id"] for item in enroll(client, *[crop(seed) for seed in range(num)])]


def test_a_start_takes_the_snapshot_that_the_last_stop_has_left(either_settings: Settings) -> None:
    fill(either_settings)
    forget_embeddings(either_settings)
    assert num_searched(either_settings) == 5


def test_changes_after_the_snapshot_are_applied_to_it(settings: Settings, tmp_path: Path) -> None:
    ids = fill(settings)
    shutil.copytree(settings.snapshots_dir, tmp_path / "old")
    with serve(settings) as client:
        client.delete(f"/gallery/{ids[0]}")
        added = enroll(client, crop(20), crop(21))
        client.delete(f"/gallery/{added[1]['id']}")
    shutil.rmtree(settings.snapshots_dir)
    shutil.copytree(tmp_path / "old", settings.snapshots_dir)
    with serve(settings) as client:
        found = search(client, crop(20), group_by="item", top_k=100)
        expected = {*ids[1:], added[0]["id"]}
        assert {match["items"][0]["id"] for match in found["matches"]} == expected
        assert found["matches"][0]["items"][0]["id"] == added[0]["id"]


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


def flip_a_bit(folder: Path) -> None:
    (path,) = folder.glob("index-*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def tear(folder: Path) -> None:
    (path,) = folder.glob("index-*")
    path.write_bytes(path.read_bytes()[:-10])


def tear_header(folder: Path) -> None:
    path = folder / "snapshot.json"
    path.write_bytes(path.read_bytes()[:-10])


def remove_index(folder: Path) -> None:
    (path,) = folder.glob("index-*")
    path.unlink()


@pytest.mark.parametrize("spoil", [remove_all, flip_a_bit, tear, tear_header, remove_index])
def test_a_snapshot_that_is_gone_or_torn_is_built_anew(
    settings: Settings, spoil: Callable[[Path], None]
) -> None:
    fill(settings)
    spoil(settings.snapshots_dir)
    assert num_searched(settings) == 5
    forget_embeddings(settings)
    assert num_searched(settings) == 5  # the stop in between has left a good one


def test_a_snapshot_of_another_gallery_is_not_used(
    settings: Settings, tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    fill(settings)
    other = make_settings(tmp_path / "other")
    fill(other, 3)
    shutil.rmtree(other.snapshots_dir)
    shutil.copytree(settings.snapshots_dir, other.snapshots_dir)
    assert num_searched(other) == 3


def test_a_snapshot_from_the_future_of_a_restored_database_is_not_used(
    settings: Settings, tmp_path: Path
) -> None:
    fill(settings)
    shutil.copytree(settings.data_dir, tmp_path / "before")
    with serve(settings) as client:
        enroll(client, crop(30))
    database = settings.data_dir / "gallery.sqlite3"
    for path in settings.data_dir.glob("gallery.sqlite3*"):
        path.unlink()
    shutil.copy(tmp_path / "before" / database.name, database)
    assert num_searched(settings) == 5


def test_a_change_log_with_a_gap_makes_the_index_anew(settings: Settings) -> None:
    fill(settings)
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM items WHERE slot = (SELECT min(slot) FROM items)"))
        connection.execute(text("UPDATE galleries SET newest_change = newest_change + 3"))
    engine.dispose()
    assert num_searched(settings) == 4
