"""Backups of a gallery at work, restored into either database; torn ones; erasures that came after them."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, select, text
from sqlalchemy.orm import Session

from archives import tar_of
from live_server import crop, enroll, search, serve, wait_for_job
from service.backup import back_up
from service.backup_file import SUMS, TABLES, BackupWriter, Member, read_member, verify
from service.check import Problem
from service.database import make_engine
from service.errors import BackupFailed, RestoreRefused
from service.receipts import Receipt, read_receipts
from service.restore import restore
from service.settings import Settings
from service.storage import CropStore
from service.table_copy import last_key
from service.tables import (
    Erasure,
    FormerIdentity,
    Gallery,
    Identity,
    Item,
    Job,
    JobFile,
    KeptAnswer,
    Move,
    Operation,
    now,
)
from test_service_check import check_gallery
from test_service_cli import reid

MakeSettings = Callable[..., Settings]


def answers(client: httpx.Client, *seeds: int, **only: Any) -> list[list[tuple[Any, ...]]]:
    """What searches for these people find, by item."""
    found = []
    for seed in seeds:
        matches = search(client, crop(seed, 50), group_by="item", top_k=50, **only)["matches"]
        items = [(match["identity_id"], match["score"], match["items"][0]) for match in matches]
        found.append(items)
    return found


def rows(settings: Settings, *columns: Any) -> list[tuple[Any, ...]]:
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(select(*columns))]
    engine.dispose()
    return found


def rewritten(backup: Path, target: Path, tables: Path) -> Path:
    """The same backup with other tables, whole as it is."""
    with backup.open("rb") as file, target.open("xb") as changed:
        about, members = verify(file)
        writer = BackupWriter(changed, 0)
        for member in members.values():
            if member.name == TABLES:
                writer.add_file(TABLES, tables)
            elif "/" in member.name:
                writer.add(member.name, read_member(file, member))
        writer.finish(about)
    return target


def members_of(backup: Path) -> dict[str, Member]:
    with backup.open("rb") as file:
        return verify(file)[1]


@pytest.fixture
def targets(tmp_path: Path, make_settings: MakeSettings, postgres: Callable[[], str]) -> list[Settings]:
    """Where to restore to: SQLite and PostgreSQL."""
    return [
        make_settings(tmp_path / "restored" / "1"),
        make_settings(tmp_path / "restored" / "2", database_url=postgres()),
    ]


def test_a_backup_of_a_gallery_at_work_is_whole_in_either_database(
    either_settings: Settings, targets: list[Settings], tmp_path: Path
) -> None:
    stop = Event()

    def come_and_go(client: httpx.Client, number: int) -> int:
        num = 0
        while not stop.is_set() or num < 3:
            (item,) = enroll(client, crop(100 * number + num), camera_id="door")
            enroll(client, crop(100 * number + num, 1), crop(9), camera_id="door", identity_id=f"{number}")
            client.delete(f"/gallery/{item['id']}")
            num += 1
        return num

    with serve(either_settings) as client, ThreadPoolExecutor(3) as threads:
        for seed in range(4):
            fields = {
                "identity_id": f"p{seed}",
                "track_id": "t",
                "captured_at": "2026-01-01T08:00:00.25+02:00",
            }
            enroll(client, crop(seed), crop(seed, 1), camera_id="hall", **fields)
        client.patch("/identities/p0", json={"name": "Zoë", "attributes": {"hat": "red"}})
        client.post("/identities/p0/merge", json={"source_ids": ["p1"]})
        before = answers(client, 0, 1, 2, camera_id="hall")
        at_work = [threads.submit(come_and_go, client, number) for number in (1, 2, 3)]
        backups = [tmp_path / f"{number}.tar" for number in range(3)]
        try:
            for backup in backups:
                back_up(either_settings, backup)
        finally:
            stop.set()
        assert sum(work.result() for work in at_work) >= 9
    with tarfile.open(backups[2]) as tar:
        assert (tar.getnames()[0], tar.getnames()[-1]) == ("backup.json", SUMS)
    for target in targets:
        about, _ = restore(target, backups[2])
        report = check_gallery(target)
        assert (report.findings, report.num_items) == ([], about.items)
        assert about.items >= 8
        assert rows(target, Gallery.newest_change) == [(about.newest_change,)]
        assert rows(target, Gallery.id) != rows(either_settings, Gallery.id)
        with serve(target) as client:
            assert answers(client, 0, 1, 2, camera_id="hall") == before
            assert client.get("/identities/p0").json()["name"] == "Zoë"
            enroll(client, crop(70), identity_id="new")  # under a key that nobody has had
        with pytest.raises(RestoreRefused, match="the database is not empty"):
            restore(target, backups[2])
        assert check_gallery(target).findings == []


def test_items_deleted_while_crops_are_read_are_not_in_the_backup(
    either_settings: Settings, targets: list[Settings], tmp_path: Path
) -> None:
    with serve(either_settings) as client:
        items = enroll(client, *[crop(seed) for seed in range(6)])
        client.delete(f"/gallery/{items.pop()['id']}")
        items = sorted(items, key=lambda item: str(item["sha256"]))
        client.post(
            f"/identities/{items[1]['identity_id']}/merge", json={"source_ids": [items[2]["identity_id"]]}
        )
        path = CropStore(either_settings.crops_dir).path(items[0]["sha256"])
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)  # the backup waits here, with the tables copied and no crop read
        with ThreadPoolExecutor(1) as threads:
            backing_up = threads.submit(back_up, either_settings, tmp_path / "b.tar")
            with path.open("wb") as pipe:
                for gone in items[1:4]:
                    assert client.delete(f"/gallery/{gone['id']}").status_code == 204
                pipe.write(content)
            about = backing_up.result()
        path.unlink()
    assert (about.items, about.identities, about.crops, about.missing_crops) == (2, 2, 2, 0)
    for target in targets:
        restore(target, tmp_path / "b.tar")
        assert check_gallery(target).findings == []
        assert {row[0] for row in rows(target, Item.id)} == {items[0]["id"], items[4]["id"]}
        assert rows(target, Move.slot) == []
        engine = make_engine(target.database_url)
        with engine.connect() as connection:
            assert last_key(connection) == 6  # though the one who had it is gone
        engine.dispose()
    names = [path.name for path in tmp_path.iterdir()]
    assert not [name for name in names if name.startswith(".b.tar")]


def test_a_crop_that_is_gone_is_named_and_left_out_only_if_that_is_wished(
    settings: Settings, targets: list[Settings], tmp_path: Path
) -> None:
    with serve(settings) as client:
        first, second = enroll(client, crop(1), crop(2))
    backup = tmp_path / "b.tar"
    store = CropStore(settings.crops_dir)
    store.path(first["sha256"]).unlink()
    with pytest.raises(BackupFailed, match=f"item {first['id']}: the stored crop .* cannot be read"):
        back_up(settings, backup)
    store.path(first["sha256"]).write_bytes(b"another")
    with pytest.raises(BackupFailed, match="has changed on the disk"):
        back_up(settings, backup)
    assert not backup.exists()
    assert back_up(settings, backup, allow_missing=True).missing_crops == 1
    restore(targets[0], backup)
    (finding,) = check_gallery(targets[0]).findings
    assert (finding.problem, first["id"] in finding.detail) == (Problem.crop, True)
    assert CropStore(targets[0].crops_dir).has(second["sha256"])


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory, make_settings: MakeSettings) -> Path:
    """A backup of a few people, some of whom were corrected."""
    folder = tmp_path_factory.mktemp("backup")
    settings = make_settings(folder / "data")
    with serve(settings) as client:
        for seed, name in enumerate(("anna", "bert", "cleo"), 1):
            enroll(client, crop(seed), crop(seed, 1), identity_id=name)
        enroll(client, crop(1), identity_id="dora")  # the same bytes as one of anna's
        client.post("/identities/anna/merge", json={"source_ids": ["cleo"]})
        client.patch("/identities/bert", json={"name": "Bert"})
    back_up(settings, folder / "b.tar")
    return folder / "b.tar"


def torn(backup: Path) -> Iterator[tuple[str, bytes]]:
    """A backup, torn in every way, each with its name."""
    whole, members = backup.read_bytes(), members_of(backup)
    for size in (0, 1, 511, 512, len(whole) - 1, len(whole) - 512, len(whole) - 10240):
        yield f"{size} bytes", whole[:size]
    for size in range(700, len(whole), len(whole) // 40):
        yield f"{size} bytes", whole[:size]
    yield "junk behind it", whole + b"junk"
    yield "a block behind it", whole + bytes(512)
    yield "itself behind it", whole + whole
    kinds = {member.name.split("/")[0]: member for member in members.values()}
    assert len(kinds) == 5
    for kind, member in kinds.items():
        for offset in (member.offset, member.offset + member.size // 2, member.offset + member.size - 1):
            yield f"a bit in {kind}", flipped(whole, offset)
        for offset in (0, 100, 124, 136, 148, 156, 257):
            yield f"a bit in the header of {kind}", flipped(whole, member.offset - 512 + offset)
        end = member.offset + member.size + -member.size % 512
        yield f"without {kind}", whole[: member.offset - 512] + whole[end:]
        yield f"{kind} twice", whole[:end] + whole[member.offset - 512 :]
        if member.size % 512:
            yield f"a bit behind {kind}", flipped(whole, end - 1)


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


def test_a_torn_backup_is_refused_and_nothing_is_touched(backup: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    path = tmp_path / "torn.tar"
    num = 0
    for how, content in torn(backup):
        path.write_bytes(content)
        with pytest.raises(RestoreRefused, match=r"the backup is torn: |it is no backup") as refused:
            restore(settings, path)
        assert not settings.data_dir.exists(), (how, str(refused.value))
        num += 1
    assert num > 100
    restore(settings, backup)
    assert len(rows(settings, Item.id)) == 7


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("crops/../../evil", tarfile.REGTYPE),
        ("/etc/evil", tarfile.REGTYPE),
        ("models/evil.py", tarfile.REGTYPE),
        (f"crops/{'0' * 64}", tarfile.SYMTYPE),
        (f"crops/{'0' * 64}", tarfile.LNKTYPE),
        (f"crops/{'0' * 64}", tarfile.CHRTYPE),
        (f"crops/{'0' * 64}", tarfile.DIRTYPE),
        (f"crops/{'0' * 64}", tarfile.GNUTYPE_SPARSE),
        (f"crops/{'0' * 64}", tarfile.XHDTYPE),
    ],
)
def test_a_member_that_no_backup_has_spoils_it(backup: Path, tmp_path: Path, name: str, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    whole, place = backup.read_bytes(), members_of(backup)[SUMS].offset - 512
    path = tmp_path / "evil.tar"
    path.write_bytes(whole[:place] + info.tobuf(tarfile.GNU_FORMAT) + whole[place:])
    with pytest.raises(RestoreRefused, match="is no member that a backup has"):
        restore(Settings(data_dir=tmp_path / "data"), path)
    assert not (tmp_path / "data").exists()


def test_nothing_that_is_there_is_overwritten(backup: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    stranger = CropStore(settings.crops_dir).put(b"a crop of another gallery")
    with pytest.raises(RestoreRefused, match="crops of another gallery"):
        restore(settings, backup)
    CropStore(settings.crops_dir).remove(stranger)
    (model,) = [Path(name).name for name in members_of(backup) if name.startswith("models/")]
    settings.models_dir.mkdir()
    (settings.models_dir / model).write_bytes(b"another")
    with pytest.raises(RestoreRefused, match="is there already"):
        restore(settings, backup)
    assert not (settings.data_dir / "gallery.sqlite3").exists()
    (settings.models_dir / model).unlink()
    (settings.data_dir / ".restoring-x").mkdir()  # as a crash leaves it, with crops that are written
    restore(settings, backup)
    assert len(rows(settings, Item.id)) == 7
    assert not list(settings.data_dir.glob(".restoring-*"))
    with pytest.raises(BackupFailed, match="is there already"):
        back_up(settings, backup)


def test_an_older_schema_is_brought_up_and_a_later_one_refused(backup: Path, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    with backup.open("rb") as file:
        tables.write_bytes(read_member(file, verify(file)[1][TABLES]))
    engine = make_engine(URL.create("sqlite", database=str(tables)))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    engine.dispose()
    old = rewritten(backup, tmp_path / "old.tar", tables)
    settings = Settings(data_dir=tmp_path / "data")
    restore(settings, old)
    assert len(rows(settings, Item.id, Item.duplicate_of)) == 7
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(RestoreRefused, match="of a later version"):
        restore(Settings(data_dir=tmp_path / "other"), rewritten(backup, tmp_path / "new.tar", tables))
    assert not (tmp_path / "other").exists()


def test_jobs_that_have_not_ended_stay_behind_and_others_with_their_errors_do_not(
    settings: Settings, targets: list[Settings], tmp_path: Path
) -> None:
    with serve(settings) as client:
        archive = tar_of({"anna/1.jpg": crop(1), "anna/2.jpg": crop(1)[:900]})
        form = {"layout": "folders"}
        headers = {"Idempotency-Key": '"a"'}
        files = {"archive": ("crops.tar", archive)}
        answer = client.post("/gallery", files=files, data=form, headers=headers)
        job = wait_for_job(client, answer.headers["location"])
        assert (job["state"], job["num_failed"]) == ("succeeded", 1)
    engine = make_engine(settings.database_url)
    with Session(engine) as session:
        for state in ("queued", "running"):
            session.add(Job(id=state, kind="import", state=state, done=0, total=1, created_at=now()))
            session.flush()
            session.add(JobFile(job_id=state, position=0, name="x", sha256="0" * 64, label={}))
        session.commit()
    engine.dispose()
    assert rows(settings, KeptAnswer.key)
    about = back_up(settings, tmp_path / "b.tar")
    assert about.left_out == ("kept answers", "jobs that have not ended, and their files")
    for target in targets:
        restore(target, tmp_path / "b.tar")
        assert rows(target, Job.id, Job.state) == [(job["id"], "succeeded")]
        assert rows(target, JobFile.name) == [("anna/2.jpg",)]
        assert rows(target, KeptAnswer.key) == []


def receipt(identity_id: str | None = None, *item_ids: str) -> dict[str, Any]:
    sha256 = identity_id and hashlib.sha256(identity_id.encode()).hexdigest()
    at = datetime.now(UTC).isoformat()
    told = {"items": len(item_ids), "cleaned": True}
    return {
        "sequence": 99,
        "at": at,
        "reason": "requested",
        "identity_sha256": sha256,
        "item_ids": list(item_ids),
        "erased": told,
    }


def test_what_was_erased_since_reaches_no_disk_again(
    backup: Path, targets: list[Settings], tmp_path: Path
) -> None:
    restore(Settings(data_dir=tmp_path / "all"), backup)
    items = rows_with_identity(Settings(data_dir=tmp_path / "all"))
    one_of_bert = min(item_id for name, item_id, _ in items if name == "bert")
    path = tmp_path / "erasures.json"
    path.write_text(json.dumps([receipt("anna"), receipt(None, one_of_bert, "0" * 32)]))
    for target in targets:
        about, num = restore(target, backup, read_receipts(path))
        assert (about.items, num) == (7, 5)
        report = check_gallery(target)
        assert (report.findings, report.num_items) == ([], 2)
        left = rows_with_identity(target)
        assert {name for name, _, _ in left} == {"bert", "dora"}
        stored = {file.name for file in target.crops_dir.rglob("*") if file.is_file()}
        assert stored == {sha256 for _, _, sha256 in left}  # dora's is one of anna's too, and stays
        assert rows(target, Operation.id) == rows(target, FormerIdentity.operation_id) == []
        noted = rows(target, Erasure.sequence, Erasure.reason, Erasure.identity_sha256)
        assert [row[1:] for row in noted] == [
            ("restored", hashlib.sha256(b"anna").hexdigest()),
            ("restored", None),
        ]
        with serve(target) as client:
            shown = client.get("/erasures").json()["erasures"]
            assert [one["item_ids"][-2:] for one in shown][1] == [one_of_bert, "0" * 32]
            enroll(client, crop(1), identity_id="anna")  # has come again since
    again, other = tmp_path / "again.tar", Settings(data_dir=tmp_path / "again")
    for number, target in enumerate(targets):
        back_up(target, again, force=number > 0)
    _, num = restore(other, again, read_receipts(path))
    assert num == 0
    assert "anna" in {name for name, _, _ in rows_with_identity(other)}


def rows_with_identity(settings: Settings) -> list[tuple[str, str, str]]:
    """Identity, id and crop of every item."""
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        found = connection.execute(select(Identity.id, Item.id, Item.sha256).join_from(Item, Identity))
        told = [(str(row[0]), str(row[1]), str(row[2])) for row in found]
    engine.dispose()
    return told


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"erasures": 1}', '[{"item_ids": []}]', '{"at": "now"}', "\xff"]
)
def test_what_is_no_receipt_is_refused_before_anything_is_done(tmp_path: Path, content: str) -> None:
    path = tmp_path / "erasures.json"
    path.write_text(content, "latin-1")
    with pytest.raises(RestoreRefused, match=r"erasures.json holds no receipts of erasures"):
        read_receipts(path)


def test_one_receipt_and_a_page_of_them_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "erasures.json"
    for told in (receipt("a"), [receipt("a")], {"erasures": [receipt("a")], "next_cursor": None}):
        path.write_text(json.dumps(told))
        assert [type(one) for one in read_receipts(path)] == [Receipt]


def test_backup_and_restore_as_commands(backup: Path, tmp_path: Path) -> None:
    data, erasures = tmp_path / "data", tmp_path / "erasures.json"
    erasures.write_text(json.dumps([receipt("bert")]))
    done = reid("restore", backup, "--data-dir", data, "--erasures", erasures)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("7 items, without 2 that were erased since, as of 20")
    done = reid("backup", tmp_path / "b.tar", "--data-dir", data)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"5 items, 4 crops, 1 networks in {tmp_path / 'b.tar'}, ")
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    done = reid("restore", tmp_path / "b.tar", "--data-dir", data)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cannot restore: the database is not empty, it has ")


def test_there_must_be_a_gallery_to_back_up(tmp_path: Path, database_url: str) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url)
    with pytest.raises(BackupFailed, match="there is no gallery"):
        back_up(settings, tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []
