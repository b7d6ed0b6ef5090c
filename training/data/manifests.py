"""Read the user's own crops: a CSV manifest, such as an export of the gallery, or a folder for each identity.

Identities, cameras and tracks have names in these sources, and are numbered in the order of the names. If no
crop has a split, a fifth of the identities is held out for evaluation.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.data.folders import MANIFEST, NamedFiles, walk_folder
from model.data.labels import LabelReader
from model.data.market import DISTRACTOR_PID as DISTRACTOR
from model.data.market import JUNK_PID as JUNK
from model.errors import LabelsError
from training.data.datasets import DISTRACTOR_PID, JUNK_PID, SPLITS, DatasetError, ReidDataset, Sample

MANIFEST_NAMES = ("manifest.csv", MANIFEST)
HELD_OUT_SHARE = 0.2
_CAMERA = re.compile(r"(?:^|[_-])c(?:am(?:era)?[_-]?)?(\d+)(?![\da-rt-z])", re.IGNORECASE)
_COLUMNS = ("path", "identity_id", "camera_id", "track_id", "split")


@dataclass(frozen=True)
class Row:
    """One crop of a manifest or a folder; an unknown name is empty.

    Attributes:
        path: the file of the crop.
        identity: empty for a distractor, -1 for junk.
        camera: the name of the camera.
        track: the name of the track, which is unique within a camera.
        split: train, query or gallery.
        place: the line of the manifest, for error messages.
    """

    path: Path
    identity: str = ""
    camera: str = ""
    track: str = ""
    split: str = ""
    place: str = ""


def read_manifest(path: str | Path) -> ReidDataset:
    """Read the crops that a CSV file lists.

    The columns are ``path`` (relative to the folder of the CSV), ``identity_id``, and optionally
    ``camera_id``, ``track_id`` and ``split`` (train, query or gallery), in any order. The service's other
    columns are ignored, and unknown columns are refused. A crop without an identity is a distractor, and a
    crop of the identity -1 is junk. Crops without a camera get one camera for each track, or for each crop
    without a track. If no crop has a split, `hold_out_by_name` splits them.

    Args:
        path: a CSV in UTF-8, or a folder with ``manifest.csv`` or, as an export has it, ``gallery.csv``.

    Raises:
        DatasetError: the CSV cannot be read, or lists a file that is not there; the message names the line.
    """
    path = Path(path)
    if path.is_dir():
        path = _manifest_in(path)
    files = NamedFiles(path.parent)
    try:
        with path.open("rb") as file:
            rows = [
                _parse_row(files, f"{path}, line {row.line}", row.fields)
                for row in LabelReader(file, required=("path", "identity_id"))
            ]
    except LabelsError as error:
        raise DatasetError(f"{path}: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise DatasetError(f"{path} names no crop")
    _refuse_repeats(rows)
    check_files(path, [row.path for row in rows])
    name = path.absolute().parent.name if path.name in MANIFEST_NAMES else path.stem
    return _build(name, path.parent, rows)


def _manifest_in(folder: Path) -> Path:
    """Return the label file of a folder; its name may be in any case of letters."""
    names = {entry.name.lower(): entry for entry in sorted(folder.iterdir(), reverse=True)}
    return next((names[name] for name in MANIFEST_NAMES if name in names), folder / MANIFEST_NAMES[0])


def read_folders(root: str | Path) -> ReidDataset:
    """Read ``root/IDENTITY/*.jpg`` (or png, webp, bmp) and split the crops by `hold_out_by_name`.

    The camera is read from file names such as ``0002_c1s1_000451_03.jpg``, ``a_c3.jpg`` or ``camera-3.jpg``
    if every name has one. Otherwise each crop gets a camera of its own, so that the protocol, which leaves
    out crops of the query's camera, leaves out the query alone. Crops of the identity -1 are junk. Crops of
    the identity 0000 whose names begin with ``0000_c``, as in Market-1501, are distractors.

    Raises:
        DatasetError: there are no such crops, or too few identities.
    """
    root = Path(root)
    walk = walk_folder(root)
    if walk.failures:
        path, reason = walk.failures[0]
        raise DatasetError(f"{path}: {reason}")
    paths = [path for path in walk.images if path.parent != root]
    if not paths:
        raise DatasetError(f"{root} holds no IDENTITY/*.jpg")
    cameras = [_CAMERA.search(path.stem) for path in paths]
    has_cameras = all(cameras)
    rows = [
        Row(path, _folder_identity(path), camera[1] if has_cameras and camera else "", place=str(path))
        for path, camera in zip(paths, cameras, strict=True)
    ]
    skipped = Counter(walk.num_skipped)
    skipped["images outside of the folders of identities"] = len(walk.images) - len(paths)
    kinds = [f"{num:,} {kind}" for kind, num in sorted(skipped.items()) if num]
    notes = [f"files of {root} that are skipped: {', '.join(kinds)}"] if kinds else []
    return _build(root.absolute().name, root, rows, notes)


def check_files(source: str | Path, paths: Sequence[Path]) -> None:
    """Check that the files exist that ``source`` lists.

    Raises:
        DatasetError: a file is not there; the message names the first one.
    """
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        count = f"{len(missing):,} of the {len(paths):,} files in {source} are not there"
        raise DatasetError(f"{count}, such as {missing[0]}")


def hold_out_by_name(rows: Sequence[Row], *, has_cameras: bool = True) -> dict[str, list[Row]]:
    """Split rows into train, query and gallery by holding out a fifth of the identities, at least two.

    Only identities that two cameras saw can be held out. They are chosen by the hash of their names, so that
    most of them are chosen again when identities are added later. The query split has one crop for each
    held-out identity and camera. The gallery split has all their crops, and the distractors and junk.

    Args:
        rows: the crops.
        has_cameras: False gives each track, or each crop without a track, a camera of its own.

    Returns:
        The rows of each split, by its name.

    Raises:
        DatasetError: fewer than two identities can be held out, or fewer than two are left to train on.

    >>> rows = [Row(Path(f"{who}-{i}"), who, str(i)) for who in "abcd" for i in (1, 2)]
    >>> {name: "".join(row.identity for row in split) for name, split in hold_out_by_name(rows).items()}
    {'train': 'aabb', 'query': 'ccdd', 'gallery': 'ccdd'}
    """
    known, seen_twice = _identities(rows), _seen_twice(rows, has_cameras)
    num_held_out = max(2, int(HELD_OUT_SHARE * len(seen_twice)))
    if len(seen_twice) < 2 or len(known) < num_held_out + 2:
        raise DatasetError(
            f"{len(seen_twice)} of {len(known)} identities have two crops or more; at least two of these are"
            " needed to evaluate and two others to train: add crops, or give each a split in a manifest"
        )
    held_out = set(sorted(seen_twice, key=_hash)[:num_held_out])
    trained_on = known - held_out
    train = [row for row in rows if row.identity in trained_on]
    gallery = [row for row in rows if row.identity not in trained_on]
    query = {
        (row.identity, _camera(row, has_cameras)): row
        for row in reversed(gallery)
        if row.identity in held_out
    }
    return {"train": train, "query": list(query.values())[::-1], "gallery": gallery}


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _identities(rows: Iterable[Row]) -> set[str]:
    return {row.identity for row in rows} - {"", JUNK}


def _camera(row: Row, has_cameras: bool) -> tuple[str, str, str]:
    if row.camera and has_cameras:
        return row.camera, "", ""
    return (row.camera, row.track, "") if row.track else (row.camera, "", str(row.path))


def _seen_twice(rows: Sequence[Row], has_cameras: bool) -> set[str]:
    cameras: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for row in rows:
        cameras[row.identity].add(_camera(row, has_cameras))
    return {identity for identity in _identities(rows) if len(cameras[identity]) > 1}


def _folder_identity(path: Path) -> str:
    identity = path.parent.name
    return "" if identity == DISTRACTOR and path.name.startswith(f"{DISTRACTOR}_c") else identity


def _parse_row(files: NamedFiles, place: str, fields: dict[str, str]) -> Row:
    identity, camera, track, split = (fields.get(name, "") for name in _COLUMNS[1:])
    split = split.lower()
    if not fields["path"]:
        raise DatasetError(f"{place}: no path")
    if split not in ("", *SPLITS):
        raise DatasetError(f"{place}: the split is {split!r}, not one of {', '.join(SPLITS)}")
    if split in ("train", "query") and identity in ("", JUNK):
        raise DatasetError(f"{place}: a crop for {split} needs an identity_id")
    return Row(files.find(fields["path"]), identity, camera, track, split, place)


def _refuse_repeats(rows: Iterable[Row]) -> None:
    places: dict[tuple[Path, str], str] = {}
    for row in rows:
        if (row.path, row.split) in places:
            raise DatasetError(f"{row.place}: {row.path} is in {places[row.path, row.split]} already")
        places[row.path, row.split] = row.place


def _build(name: str, root: Path, rows: Sequence[Row], notes: Iterable[str] = ()) -> ReidDataset:
    notes = list(notes)
    has_cameras = True
    if all(row.split for row in rows):
        splits = {split: [row for row in rows if row.split == split] for split in SPLITS}
        if both := _identities(splits["train"]) & _identities(splits["query"]):
            notes.append(
                f"{name}: {len(both):,} identities are in both train and query, so the metrics are too high"
            )
    elif given := [row for row in rows if row.split]:
        unsplit = next(row for row in rows if not row.split)
        raise DatasetError(
            f"{unsplit.place}: no split, though {given[0].place} has one; give all rows one, or none"
        )
    else:
        has_cameras = len(_seen_twice(rows, has_cameras=True)) > 1
        splits = hold_out_by_name(rows, has_cameras=has_cameras)
        held_out, known = _identities(splits["gallery"]), _identities(rows)
        notes.append(
            f"{name}: no crop has a split, so {len(held_out):,} of {len(known):,} identities are held out"
        )
    num_without = sum(not row.camera for row in rows) if has_cameras else len(rows)
    if num_without:
        why = "have no camera" if has_cameras else "are of identities that no two cameras saw"
        notes.append(
            f"{name}: {num_without:,} crops {why}; each track, or crop, counts as a camera, so the metrics"
            " are too high"
        )
    return ReidDataset(name, root, *_number(rows, splits, has_cameras), notes=tuple(notes))


def _number(
    rows: Sequence[Row], splits: dict[str, list[Row]], has_cameras: bool
) -> tuple[tuple[Sample, ...], tuple[Sample, ...], tuple[Sample, ...]]:
    pids = {name: pid for pid, name in enumerate(sorted(_identities(rows)), start=1)}
    pids |= {"": DISTRACTOR_PID, JUNK: JUNK_PID}
    camids = {
        name: camid for camid, name in enumerate(sorted({_camera(row, has_cameras) for row in rows}), 1)
    }
    tracks = sorted({(row.camera, row.track) for row in rows if row.track})
    trackids = {name: trackid for trackid, name in enumerate(tracks)}

    def sample(row: Row) -> Sample:
        camid, trackid = camids[_camera(row, has_cameras)], trackids.get((row.camera, row.track), -1)
        return Sample(row.path, pids[row.identity], camid, trackid)

    train, query, gallery = (tuple(sample(row) for row in splits[name]) for name in SPLITS)
    return train, query, gallery
