"""F1: a damaged cache of converted networks, a damaged checkpoint, and repairs that must not do harm."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import openvino
import pytest
from PIL import Image
from sqlalchemy import select, text

from live_server import crop, enroll, search, serve
from model.checkpoint import checkpoint_version, load_checkpoint
from model.converted import ConvertedCache, find_damaged
from model.embedder import Embedder
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.store.tables import Embedding, ReplacedEmbedding, now
from service.upkeep.check import Report, check
from service.upkeep.embeddings import MAKE
from service.upkeep.findings import FindingKind
from service.upkeep.opening import opened_to_change, opened_to_look
from service.upkeep.repairs import purge_replaced, undo_last_repair


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    engine = make_engine(settings.database_url)
    yield Store(settings, make_sessions(engine))
    engine.dispose()


def check_gallery(settings: Settings, *, repair: bool = False) -> Report:
    with opened(settings) as store:
        return check(store, repair=repair)


def look_at_gallery(settings: Settings) -> Report:
    with opened_to_look(settings) as store:
        return check(store)


def undo(settings: Settings) -> int:
    with opened_to_change(settings) as store:
        return undo_last_repair(store)


def embeddings(settings: Settings) -> dict[int, bytes]:
    with opened(settings) as store, store.read() as session:
        return {row.slot: row.values for row in session.scalars(select(Embedding))}


def spoil(settings: Settings, slots: list[int], values: bytes) -> None:
    with opened(settings) as store, store.write() as session:
        for slot in slots:
            session.execute(
                text('UPDATE embeddings SET "values" = :values WHERE slot = :slot'),
                {"values": values, "slot": slot},
            )


def largest(cache: Path, suffix: str, version: str) -> Path:
    return max(cache.glob(f"{version}-*{suffix}"), key=lambda path: path.stat().st_size)


def zeros_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle, num = len(content) // 2, len(content) // 4
    content[middle : middle + num] = bytes(num)
    path.write_bytes(content)


def garbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[10:1_000] = os.urandom(len(content[10:1_000]))
    path.write_bytes(content)


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "within").mkdir(parents=True)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def of_another_version(path: Path) -> None:
    version = path.name[:12]
    for other in path.parent.glob("*"):
        if not other.name.startswith(version):
            shutil.copy(other, path.parent / (version + other.name[12:]))


def of_another_openvino(path: Path) -> None:
    xml = path.with_suffix(".xml")
    body, _, comment = xml.read_bytes().rpartition(b"<!--")
    version = openvino.__version__.encode()
    xml.write_bytes(body + b"<!--" + comment.replace(version, version[:-1] + b"~"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "zeros": zeros_in_the_middle,
    "garbled": garbled,
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": a_folder,
    "gone": lambda path: path.unlink(),
    "dangling": dangling,
    "another version": of_another_version,
    "another OpenVINO": of_another_openvino,
}


@pytest.mark.parametrize("suffix", [".bin", ".xml"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_f1_a_damaged_network_is_not_believed_and_is_written_again(
    checkpoints: Path, tmp_path: Path, damage: str, suffix: str
) -> None:
    folder = shutil.copytree(checkpoints / "cache", tmp_path / "cache")
    path = largest(folder, suffix, checkpoint_version(checkpoints / "tiny.safetensors"))
    cache, name = ConvertedCache(folder), path.stem
    graph = cache.load(name)
    assert graph is not None
    DAMAGES[damage](path)
    assert cache.load(name) is None
    cache.save(name, graph)
    assert cache.load(name) is not None
    assert not [found for found, _ in find_damaged(folder) if found.stem == name]


def test_f1_a_network_damaged_in_its_middle_is_converted_again(checkpoints: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(checkpoints / "cache", tmp_path / "cache")
    tiny = load_checkpoint(checkpoints / "tiny.safetensors")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 32, 3), dtype=np.uint8))
    expected = Embedder(tiny, cache_dir=cache).embed([image])
    zeros_in_the_middle(largest(cache, ".bin", tiny.version))
    np.testing.assert_array_equal(Embedder(tiny, cache_dir=cache).embed([image]), expected)
    stamps = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    Embedder(tiny, cache_dir=cache)  # the cache is whole again, so nothing is converted
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == stamps


def test_f1_a_cache_that_cannot_be_written_is_done_without(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    tiny = load_checkpoint(checkpoints / "tiny.safetensors")
    assert Embedder(tiny, cache_dir=tmp_path / "cache").embedding_size == 64


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]) -> Settings:
    """A stopped gallery of six items, which the tests copy."""
    settings = make_settings(tmp_path_factory.mktemp("stopped") / "data")
    fill(settings)
    return settings


def fill(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, *[crop(seed) for seed in range(6)], identity_id="anna")


@pytest.fixture
def filled(stopped: Settings, tmp_path: Path) -> Settings:
    """A stopped gallery of six items on SQLite."""
    data_dir = shutil.copytree(stopped.data_dir, tmp_path / "data")
    return Settings.model_validate({"data_dir": data_dir, "default_checkpoint": stopped.default_checkpoint})


@pytest.mark.parametrize("damage", ["zeros", "garbled"])
def test_f1_a_damaged_cache_is_blamed_and_no_embedding(
    filled: Settings, tiny_checkpoint: Path, damage: str
) -> None:
    before = embeddings(filled)
    DAMAGES[damage](largest(filled.cache_dir, ".bin", checkpoint_version(tiny_checkpoint)))
    report = check_gallery(filled)
    assert [finding.kind for finding in report.findings] == [FindingKind.network]
    assert (report.num_recomputed, report.findings[0].repaired) == (6, False)
    assert check_gallery(filled, repair=True).is_clean
    assert check_gallery(filled).findings == []
    assert embeddings(filled) == before
    with serve(filled) as client:
        assert search(client, crop(3), group_by="item", top_k=1)["matches"][0]["score"] > 0.999


def pass_off(cache: Path, version: str, other: str) -> None:
    """Write the network of another version in place of one, with checksums that fit."""
    kept = ConvertedCache(cache)
    for path in list(cache.glob(f"{other}-*.xml")):
        graph = kept.load(path.stem)
        assert graph is not None
        kept.save(version + path.stem[12:], graph)


def test_f1_a_network_that_only_the_second_making_finds_out_replaces_nothing(
    filled: Settings, tiny_checkpoint: Path, another_checkpoint: Path
) -> None:
    before = embeddings(filled)
    tiny, another = checkpoint_version(tiny_checkpoint), checkpoint_version(another_checkpoint)
    pass_off(filled.cache_dir, tiny, another)
    (finding,) = check_gallery(filled).findings
    assert finding.kind is FindingKind.network
    assert "of 6 items the stored embeddings are right" in finding.detail
    first, other, *_ = sorted(before)
    spoil(filled, [first], before[other])  # and one that is wrong by either making
    (wrong, network) = check_gallery(filled, repair=True).findings
    assert (wrong.kind, wrong.repaired) == (FindingKind.embedding, False)
    assert "two makings" in wrong.detail
    assert (network.kind, network.repaired) == (FindingKind.network, True)
    assert embeddings(filled) == before | {first: before[other]}
    (wrong,) = check_gallery(filled, repair=True).findings  # the network was converted again
    assert wrong.repaired
    assert embeddings(filled) == before


def test_f1_what_a_repair_replaces_can_be_put_back_until_it_is_purged(filled: Settings) -> None:
    before = embeddings(filled)
    first, *others = sorted(before)
    spoil(filled, [first], before[others[0]])
    spoilt = embeddings(filled)
    assert [finding.remedy for finding in check_gallery(filled).findings] == [MAKE]
    assert embeddings(filled) == spoilt
    assert check_gallery(filled, repair=True).is_clean
    assert embeddings(filled) == before
    assert undo(filled) == 1
    assert embeddings(filled) == spoilt
    assert undo(filled) == 0
    assert check_gallery(filled, repair=True).is_clean
    with opened(filled) as store:
        purge_replaced(store, now() + timedelta(days=29))
        assert num_replaced(store) == 1
        purge_replaced(store, now() + timedelta(days=31))
        assert num_replaced(store) == 0


def num_replaced(store: Store) -> int:
    with store.read() as session:
        return len(session.scalars(select(ReplacedEmbedding)).all())


def test_f1_an_erasure_takes_what_a_repair_has_replaced(filled: Settings) -> None:
    mark = np.random.default_rng(5).normal(size=64).astype("<f2")
    mark /= np.linalg.norm(mark.astype(np.float32))
    spoil(filled, sorted(embeddings(filled))[:2], mark.tobytes())
    assert check_gallery(filled, repair=True).is_clean
    with serve(filled) as client:
        receipt = client.delete("/identities/anna", params={"mode": "erase"}).json()
        assert receipt["erased"]["replaced_embeddings"] == 2
        assert client.get("/erasures").json()["erasures"][0]["erased"] == receipt["erased"]
    with opened(filled) as store:
        assert num_replaced(store) == 0
    for path in filled.data_dir.parent.rglob("*"):
        assert not path.is_file() or mark.tobytes()[8:64] not in path.read_bytes(), path


def test_f1_the_same_on_postgresql(
    postgres: Callable[[], str], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "data", database_url=postgres())
    fill(settings)
    before = embeddings(settings)
    first, other, *_ = sorted(before)
    spoil(settings, [first], before[other])
    state, spoilt = state_of(tmp_path), embeddings(settings)
    assert [finding.remedy for finding in look_at_gallery(settings).findings] == [MAKE]
    assert (state_of(tmp_path), embeddings(settings)) == (state, spoilt)
    assert check_gallery(settings, repair=True).is_clean
    assert embeddings(settings) == before
    assert undo(settings) == 1
    assert embeddings(settings) == spoilt
    assert check_gallery(settings, repair=True).is_clean
    with serve(settings) as client:
        receipt = client.delete("/identities/anna", params={"mode": "erase"}).json()
        assert receipt["erased"]["replaced_embeddings"] == 1
    with opened(settings) as store:
        assert num_replaced(store) == 0


def state_of(folder: Path) -> dict[Path, tuple[int, str]]:
    """Return the time and the hash of every file, and the time of every folder."""
    return {
        path: (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("beside", [(), ("-wal",), ("-wal", "-shm")])
def test_f1_a_check_writes_nothing(filled: Settings, tmp_path: Path, beside: tuple[str, ...]) -> None:
    """Also after a service was killed, when the log and its shared memory are left, or were copied."""
    garbled(largest(filled.cache_dir, ".bin", next(filled.models_dir.glob("*.safetensors")).stem))
    left = Settings(data_dir=tmp_path / "left")
    with opened(filled) as store, store.read() as session:
        session.execute(text("SELECT 1"))
        if beside:
            spoil(filled, [min(embeddings(filled))], b"short")
        gone = {"*-wal", "*-shm"} - {f"*{suffix}" for suffix in beside}
        shutil.copytree(filled.data_dir, left.data_dir, ignore=shutil.ignore_patterns(*gone))
    before = state_of(tmp_path)
    found = [finding.kind for finding in look_at_gallery(left).findings]
    assert found == [FindingKind.network] + [FindingKind.embedding] * bool(beside)
    assert state_of(tmp_path) == before


def test_f1_a_damaged_checkpoint_is_blamed_before_any_embedding(filled: Settings) -> None:
    before = embeddings(filled)
    (path,) = filled.models_dir.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-4_000:-2_000] = bytes(2_000)
    path.write_bytes(content)
    report = check_gallery(filled, repair=True)
    assert [finding.kind for finding in report.findings] == [FindingKind.model]
    assert "register it again" in report.findings[0].detail
    assert not report.is_clean
    assert embeddings(filled) == before
    with serve(filled, wait=False) as client:
        wait_for_reason(client, "has changed on the disk")


def wait_for_reason(client: httpx.Client, reason: str) -> None:
    for _ in range(600):
        if reason in client.get("/readyz").json()["detail"]:
            return
    raise AssertionError(client.get("/readyz").text)
