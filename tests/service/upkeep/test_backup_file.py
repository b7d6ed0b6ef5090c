"""The file that a backup is: refused wherever it is torn, spoilt or hostile, and never there in part."""

import tarfile
from pathlib import Path

import pytest

from archives import tar_of
from backed_up import MakeSettings, abandon, back_up, findings, opened, places
from live_server import crop, enroll, serve
from service.errors import BadBackup, CropMissing, NotEmpty
from service.settings import Settings
from service.store.crops import CropStore
from service.upkeep.backup_file import SUMS
from service.upkeep.restore import restore


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, make_settings: MakeSettings) -> tuple[Path, Settings]:
    """A backup of three items, and the settings of what it is of."""
    settings = make_settings(tmp_path_factory.mktemp("small") / "data")
    with serve(settings) as client:
        enroll(client, crop(1), crop(2), identity_id="anna")
        enroll(client, crop(3), identity_id="bert")
    path = tmp_path_factory.mktemp("backups") / "backup.tar"
    back_up(settings, path)
    return path, settings


def assert_refused(path: Path, folder: Path) -> None:
    with pytest.raises(BadBackup):
        restore(Settings(data_dir=folder), path)
    assert not folder.exists() or [one for one in folder.rglob("*") if one.is_file()] == []


def test_a_torn_backup_is_refused_wherever_it_is_torn(small: tuple[Path, Settings], tmp_path: Path) -> None:
    path, _ = small
    whole = path.read_bytes()
    start, size = places(path)[SUMS]
    ends = [0, 100, 512, len(whole) // 3, start - 512, start - 1, start, start + size // 2]
    for end in ends:
        torn = tmp_path / "torn.tar"
        torn.write_bytes(whole[:end])
        assert_refused(torn, tmp_path / "target")


def test_a_flipped_bit_anywhere_is_noticed(small: tuple[Path, Settings], tmp_path: Path) -> None:
    path, _ = small
    whole = path.read_bytes()
    for name, (start, size) in places(path).items():
        for place in (start - 512, start - 512 + 150, start, start + size // 2, start + size - 1):
            spoilt = bytearray(whole)
            spoilt[place] ^= 1
            torn = tmp_path / "torn.tar"
            torn.write_bytes(spoilt)
            assert_refused(torn, tmp_path / "target")
            assert name


def test_what_is_missing_added_or_hostile_is_refused(small: tuple[Path, Settings], tmp_path: Path) -> None:
    path, _ = small
    with tarfile.open(path) as archive:
        members = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    link = tarfile.TarInfo("models/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    outside = {"models/../../x": b"", **members}
    wrong = [{name: data for name, data in members.items() if name != left_out} for left_out in members]
    wrong += [
        {"new": b"", **members},
        {**members, "models/late": b""},
        outside,
        {"crops/" + "0" * 64: b"", **members},
    ]
    for number, one in enumerate(wrong):
        bad = tmp_path / f"{number}.tar"
        bad.write_bytes(tar_of(one))
        assert_refused(bad, tmp_path / "target")
    (tmp_path / "link.tar").write_bytes(tar_of(members, link))
    assert_refused(tmp_path / "link.tar", tmp_path / "target")
    (tmp_path / "behind.tar").write_bytes(path.read_bytes() + b"x")
    assert_refused(tmp_path / "behind.tar", tmp_path / "target")
    for content in (b"", b"no tar", bytes(20_000)):
        (tmp_path / "none.tar").write_bytes(content)
        assert_refused(tmp_path / "none.tar", tmp_path / "target")
    assert_refused(tmp_path / "absent.tar", tmp_path / "target")


def test_a_backup_appears_whole_or_not_at_all_and_replaces_nothing_unasked(
    small: tuple[Path, Settings], tmp_path: Path
) -> None:
    _, settings = small
    path = tmp_path / "backup.tar"
    back_up(settings, path)
    whole = path.read_bytes()
    with pytest.raises(BadBackup, match="there already"):
        back_up(settings, path)
    store = CropStore(settings.crops_dir)
    crop_path = next(store.paths())
    crop_path.rename(crop_path.with_suffix(".away"))
    with pytest.raises(CropMissing, match=crop_path.name):
        back_up(settings, path, replace=True)
    assert path.read_bytes() == whole
    crop_path.with_suffix(".away").rename(crop_path)
    back_up(settings, path, replace=True)
    assert [one.name for one in tmp_path.iterdir()] == ["backup.tar"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_backup_without_a_crop_that_is_gone_is_made_only_if_allowed(
    small: tuple[Path, Settings], tmp_path: Path
) -> None:
    _, settings = small
    crop_path = next(CropStore(settings.crops_dir).paths())
    whole = crop_path.read_bytes()
    crop_path.write_bytes(b"another")
    with pytest.raises(CropMissing, match="--allow-missing"):
        back_up(settings, tmp_path / "backup.tar")
    contents = back_up(settings, tmp_path / "backup.tar", allow_missing=True)
    crop_path.write_bytes(whole)
    assert contents.num_missing == 1
    target = Settings(data_dir=tmp_path / "target")
    restore(target, tmp_path / "backup.tar")
    stored = {path.name for path in CropStore(target.crops_dir).paths()}
    assert stored == {path.name for path in CropStore(settings.crops_dir).paths()} - {crop_path.name}


def test_files_of_another_gallery_are_not_overwritten(small: tuple[Path, Settings], tmp_path: Path) -> None:
    path, _ = small
    target = Settings(data_dir=tmp_path / "data")
    store = CropStore(target.crops_dir)
    stranger = store.put(b"a crop of another gallery")
    with pytest.raises(NotEmpty, match="crops of another gallery"):
        restore(target, path)
    store.delete(stranger)
    (name,) = [name for name in places(path) if name.startswith("models/")]
    model = target.data_dir / name
    model.parent.mkdir()
    model.write_bytes(b"another network")
    with pytest.raises(NotEmpty, match="is there already"):
        restore(target, path)
    assert model.read_bytes() == b"another network"
    model.unlink()
    abandon(target.data_dir / ".restoring-x")
    assert restore(target, path).num_items == 3
    assert not list(target.data_dir.glob(".*"))


def test_a_restore_that_was_cut_short_is_done_again(
    small: tuple[Path, Settings], tmp_path: Path, make_settings: MakeSettings
) -> None:
    path, _ = small
    target = make_settings(tmp_path / "data")
    with opened(target):  # the schema is there, and some of the crops
        CropStore(target.crops_dir).put(crop(1))
    assert restore(target, path).num_items == 3
    assert findings(target) == []
