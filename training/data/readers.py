"""Read public data sets from their folders, and any data set by its path: `read_dataset`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from model.data.folders import is_image_name, walk_folder
from model.data.market import parse_market1501_name
from training.data.datasets import DISTRACTOR_PID, SPLITS, DatasetError, ReidDataset, Sample, join
from training.data.manifests import MANIFEST_NAMES, check_files, read_folders, read_manifest

_CUHK03_NP_NAME = re.compile(r"(\d+)_c(\d+)_\w+\.\w+", re.ASCII)
_MSMT17_LINE = re.compile(r"((?:.*/)?\d+_\d+_(\d{1,4})_[^/ ]+) (\d{1,9})\s*")
_MSMT17_FOLDERS = {"train": "test", "mask_train_v2": "mask_test_v2"}  # V1; V2, with faces masked
_SPLIT_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")

_MSMT17_TEST = ((11_659, 3_060), (82_161, 3_060))
PUBLISHED: dict[str, tuple[tuple[int, int], ...]] = {
    "market1501": ((12_936, 751), (3_368, 750), (19_732, 750)),
    "cuhk03-labeled": ((7_368, 767), (1_400, 700), (5_328, 700)),
    "cuhk03-detected": ((7_365, 767), (1_400, 700), (5_332, 700)),
    "msmt17": ((30_248, 1_041), *_MSMT17_TEST),
    "msmt17-trainval": ((32_621, 1_041), *_MSMT17_TEST),
}
"""Published (images, identities) of train, query and gallery. Junk and distractors count as images alone."""


def read_market1501(root: str | Path) -> ReidDataset:
    """Read Market-1501 (Zheng et al., ICCV 2015) from its extracted folder, or the folder above it.

    Raises:
        DatasetError: a folder is absent or empty, or a .jpg is not named as Market-1501 names its crops.
    """
    root = _first_folder(Path(root), "Market-1501-v15.09.15")
    train, query, gallery = (
        _read_folder(root / name, parse_market1501_name, "0002_c1s1_000451_03.jpg") for name in _SPLIT_FOLDERS
    )
    train = tuple(sample for sample in train if sample.pid > DISTRACTOR_PID)
    return _with_notes(ReidDataset("market1501", root, train, query, gallery))


def read_query_boxes(dataset: ReidDataset) -> tuple[Sample, ...]:
    """Read Market-1501's hand-drawn boxes (gt_bbox) of each query's identity in the query's camera.

    The published protocol makes multiple queries of these boxes. The query's own box is one of them.

    Returns:
        The boxes as samples; none for another data set, or without the folder gt_bbox.

    Raises:
        DatasetError: a query has no box.
    """
    folder = dataset.root / "gt_bbox"
    if dataset.name != "market1501" or not folder.is_dir():
        return ()
    queries = {_person_and_camera(sample.path): sample for sample in dataset.query}
    paths = [path for path in walk_folder(folder).images if _person_and_camera(path) in queries]
    if lacking := queries.keys() - {_person_and_camera(path) for path in paths}:
        count = f"{len(lacking):,} of {len(queries):,} queries"
        raise DatasetError(f"{folder} has no box for {count}, such as {min(lacking)}: extract it again")
    return tuple(replace(queries[_person_and_camera(path)], path=path) for path in paths)


def _person_and_camera(path: Path) -> str:
    """Return 0002_c1 for 0002_c1s1_000451_03.jpg, and an empty text for a name of another form."""
    return "_c".join(parse_market1501_name(path.name) or ())


def read_cuhk03_np(root: str | Path, kind: str = "labeled") -> ReidDataset:
    """Read CUHK03 (Li et al., CVPR 2014) by the new protocol of 767/700 identities (Zhong et al., CVPR 2017).

    The crops are in the folders of CUHK03-NP: ``bounding_box_train``, ``query`` and ``bounding_box_test``. If
    these are absent, they are made once, in ``root/cuhk03-np/KIND``, from ``cuhk-03.mat`` and
    ``cuhk03_new_protocol_config_KIND.mat``.

    Args:
        root: holds the folders of CUHK03-NP, or ``KIND`` or ``cuhk03-np/KIND`` with them, or the .mat files.
        kind: ``labeled`` (boxes drawn by hand) or ``detected``.

    Raises:
        DatasetError: the data set is not there, a .mat file cannot be read, or a crop is not named as
            CUHK03-NP names its crops.
    """
    root = Path(root)
    folder = _first_folder(root, kind, f"cuhk03-np/{kind}")
    if (
        not (folder / _SPLIT_FOLDERS[0]).is_dir()
        and (root / f"cuhk03_new_protocol_config_{kind}.mat").exists()
    ):
        from training.data.cuhk03_mat import extract_crops  # needs h5py and scipy, which import slowly

        folder = root / "cuhk03-np" / kind
        extract_crops(root, kind, folder)
    train, query, gallery = (
        _read_folder(folder / name, _parse_cuhk03_np_name, "0001_c1_00001.png") for name in _SPLIT_FOLDERS
    )
    return _with_notes(ReidDataset(f"cuhk03-{kind}", folder, train, query, gallery))


def read_msmt17(root: str | Path, *, with_val: bool = False) -> ReidDataset:
    """Read MSMT17 V1 or V2 (Wei et al., CVPR 2018) by its list files.

    The lists count identities from 0 in the training split and from 0 again in the test split. Here the pids
    of both are different, and count from 1.

    Args:
        root: the folder of MSMT17, or the folder above it; of V1 and V2 together, V1 is read.
        with_val: add the 2,373 images of list_val.txt, which show the same people, to the training split.

    Raises:
        DatasetError: a list is absent, has a line of another form, or lists a file that is not there.
    """
    root = _first_folder(Path(root), "MSMT17_V1", "MSMT17_V2")
    train_folder = next((root / name for name in _MSMT17_FOLDERS if (root / name).is_dir()), root / "train")
    test_folder = root / _MSMT17_FOLDERS[train_folder.name]
    train = _read_list(root / "list_train.txt", train_folder, first_pid=1)
    if with_val:
        train += _read_list(root / "list_val.txt", train_folder, first_pid=1)
    first_test_pid = 1 + max([0, *(sample.pid for sample in train)])
    query, gallery = (
        _read_list(root / f"list_{name}.txt", test_folder, first_test_pid) for name in ("query", "gallery")
    )
    name = "msmt17-trainval" if with_val else "msmt17"
    return _with_notes(ReidDataset(name, root, train, query, gallery))


READERS: dict[str, Callable[[Path], ReidDataset]] = {
    "market1501": read_market1501,
    "cuhk03-labeled": partial(read_cuhk03_np, kind="labeled"),
    "cuhk03-detected": partial(read_cuhk03_np, kind="detected"),
    "msmt17": read_msmt17,
    "msmt17-trainval": partial(read_msmt17, with_val=True),
    "folders": read_folders,
    "csv": read_manifest,
}
_MARKERS = {
    "csv": MANIFEST_NAMES,
    "market1501": ("bounding_box_train", "Market-1501-v15.09.15/bounding_box_train"),
    **{
        f"cuhk03-{kind}": (
            f"{kind}/bounding_box_train",
            f"cuhk03-np/{kind}/bounding_box_train",
            f"cuhk03_new_protocol_config_{kind}.mat",
        )
        for kind in ("labeled", "detected")
    },
    "msmt17": ("list_train.txt", "MSMT17_V1/list_train.txt", "MSMT17_V2/list_train.txt"),
}
"""Paths of which one, in the folder of a data set, tells its kind."""
Data = Annotated[
    list[str],
    typer.Option(
        metavar="[KIND:]PATH",
        help=f"A data set; may repeat, to join several. KIND is {', '.join(READERS)}.",
    ),
]


def read_dataset(sources: Sequence[str], needs: Sequence[str] = ()) -> ReidDataset:
    """Read the data sets that ``--data`` names, join them, and print their notes to stderr.

    Args:
        sources: each is ``[KIND:]PATH``. KIND is a key of READERS; `find_kind` finds an omitted one.
        needs: the splits that must not be empty.

    Raises:
        DatasetError: a data set cannot be read, has no known kind, or has a crop of another one; or a split
            in ``needs`` is empty.
    """
    dataset = join([_read_source(source) for source in sources])
    for note in dataset.notes:
        typer.echo(f"warning: {note}", err=True)
    for name in needs:
        if not dataset.split(name):
            raise DatasetError(f"{dataset.name} has no {name} split, which this command needs")
    return dataset


def _read_source(source: str) -> ReidDataset:
    kind, _, path = source.partition(":")
    if kind not in READERS or not path:
        kind, path = "", source
    try:
        return READERS[kind or find_kind(path)](Path(path))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def find_kind(path: str | Path) -> str:
    """Return the kind of the data set at a path, a key of READERS.

    Raises:
        DatasetError: no known data set is there, or several are.
    """
    path = Path(path)
    if path.is_file():
        return "csv"
    if not path.is_dir():
        raise DatasetError(f"{path} is not there; give [KIND:]PATH with a KIND of {', '.join(READERS)}")
    if path.name in ("labeled", "detected") and (path / _SPLIT_FOLDERS[0]).is_dir():
        return f"cuhk03-{path.name}"
    found = [
        kind for kind, markers in _MARKERS.items() if any((path / marker).exists() for marker in markers)
    ]
    if len(found) > 1:
        raise DatasetError(f"{path} holds {' and '.join(found)}: say which, as in {found[0]}:{path}")
    if found:
        return found[0]
    if any(is_image_name(file.name) for file in path.glob("*/*")):
        return "folders"
    looked_for = ", ".join(marker for markers in _MARKERS.values() for marker in markers)
    raise DatasetError(f"{path} holds no known data set; looked for {looked_for}, IDENTITY/*.jpg")


def _first_folder(root: Path, *names: str) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root)


def _parse_cuhk03_np_name(name: str) -> tuple[str, str] | None:
    match = _CUHK03_NP_NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def _read_folder(
    folder: Path, parse: Callable[[str], tuple[str, str] | None], example: str
) -> tuple[Sample, ...]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not there; give the folder that holds {', '.join(_SPLIT_FOLDERS)}")
    walk = walk_folder(folder)
    if walk.failures:
        path, reason = walk.failures[0]
        raise DatasetError(f"{path}: {reason}")
    samples = []
    for path in walk.images:
        parsed = parse(path.name)
        if parsed is None:
            advice = "for other names write a manifest.csv"
            raise DatasetError(f"{path} is not named as in this data set, such as {example}; {advice}")
        samples.append(Sample(path, int(parsed[0]), int(parsed[1])))
    if not samples:
        raise DatasetError(f"{folder} holds no image with a name such as {example}")
    return tuple(samples)


def _read_list(path: Path, folder: Path, first_pid: int) -> tuple[Sample, ...]:
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as a list of MSMT17: {error}") from error
    samples = []
    for number, line in enumerate(lines, start=1):
        match = _MSMT17_LINE.fullmatch(line)
        if match is None:
            raise DatasetError(f"{path}, line {number}: {line[:80]!r} is not FOLDER/0000_000_01_TIME.jpg PID")
        samples.append(Sample(folder / match[1], first_pid + int(match[3]), int(match[2])))
    check_files(path, [sample.path for sample in samples])
    return tuple(samples)


def _with_notes(dataset: ReidDataset) -> ReidDataset:
    notes = []
    for name, published in zip(SPLITS, PUBLISHED[dataset.name], strict=True):
        pids = [sample.pid for sample in dataset.split(name)]
        found = len(pids), len({pid for pid in pids if pid > DISTRACTOR_PID})
        if found != published:
            notes.append(
                f"{dataset.name} {name}: {found[0]:,} images of {found[1]:,} identities,"
                f" where {published[0]:,} of {published[1]:,} are published"
            )
    return replace(dataset, notes=tuple(notes))
