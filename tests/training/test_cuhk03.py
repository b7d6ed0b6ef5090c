"""Reading CUHK03 from MATLAB files: small files of the published structure, and damaged files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from training.data.cuhk03_mat import extract_crops
from training.data.datasets import DatasetError, open_crop
from training.data.readers import read_dataset

NUM_PAIRS, NUM_PEOPLE, NUM_CROPS = 5, 3, 10
RAW, PROTOCOL = "cuhk-03.mat", "cuhk03_new_protocol_config_labeled.mat"
Pixels = NDArray[np.uint8]


def pixels(pair: int, person: int, crop: int) -> Pixels:
    """Return noise, uint8 (H, W, 3), whose height differs between the crops of a person."""
    rng = np.random.default_rng((pair, person, crop))
    return rng.integers(0, 256, (20 + crop, 10, 3), dtype=np.uint8)


def write_raw(path: Path, **others: NDArray[np.generic]) -> None:
    """Write nested cells of images as MATLAB 7.3 does: by references, with the axes of arrays reversed.

    ``others`` replace images by the name of their array. One cell is empty.
    """
    others = {"image_4_2_9": np.zeros(2, np.uint64), **others}
    with h5py.File(path, "w") as file:
        pairs = file.create_dataset("labeled", (1, NUM_PAIRS), dtype=h5py.ref_dtype)
        for pair in range(NUM_PAIRS):
            cells = file.create_dataset(f"#refs#/{pair}", (NUM_CROPS, NUM_PEOPLE), dtype=h5py.ref_dtype)
            for person in range(NUM_PEOPLE):
                for crop in range(NUM_CROPS):
                    name = f"image_{pair}_{person}_{crop}"
                    data = others.get(name, pixels(pair, person, crop).T)
                    cells[crop, person] = file.create_dataset(f"#refs#/{name}", data=data).ref
            pairs[0, pair] = cells.ref


def protocol() -> dict[str, NDArray[np.generic]]:
    """Return a protocol with identities 1 and 2 for training and 15 for testing. MATLAB counts from 1."""
    cells = [(0, 0, crop) for crop in range(10)] + [(0, 1, 5)] + [(4, 2, crop) for crop in range(9)]
    files = [
        f"{pair + 1}_{person + 1:03d}_{1 + crop // 5}_{crop + 1:02d}.png" for pair, person, crop in cells
    ]
    return {
        "filelist": np.array([[name] for name in files], object),
        "labels": np.array([[1]] * 10 + [[2]] + [[15]] * 9, np.uint16),
        "camId": np.array([[1 + crop // 5] for _, _, crop in cells], np.uint8),
        "train_idx": np.arange(1, 12, dtype=np.uint16)[:, None],
        "query_idx": np.array([[12], [20]], np.uint16),
        "gallery_idx": np.arange(13, 20, dtype=np.uint16)[:, None],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the protocol, and with the crops' file where its archive puts it."""
    (tmp_path / "cuhk03_release").mkdir()
    write_raw(tmp_path / "cuhk03_release" / RAW)
    savemat(tmp_path / PROTOCOL, protocol(), do_compression=True)
    return tmp_path


def test_the_crops_of_the_protocol_are_extracted_once(root: Path) -> None:
    dataset = read_dataset([str(root)])
    ids = [[(s.pid, s.camid) for s in dataset.split(name)] for name in ("train", "query", "gallery")]
    assert ids == [[(1, 1)] * 5 + [(1, 2)] * 5 + [(2, 2)], [(15, 1), (15, 2)], [(15, 1)] * 4 + [(15, 2)] * 3]
    cells = [
        *((0, 0, crop) for crop in range(10)),
        (0, 1, 5),
        (4, 2, 0),
        (4, 2, 8),
        *((4, 2, c) for c in range(1, 8)),
    ]
    for sample, cell in zip(dataset.samples, cells, strict=True):
        np.testing.assert_array_equal(np.asarray(open_crop(sample.path)), pixels(*cell))
    assert [path.name for path in (root / "cuhk03-np").iterdir()] == ["labeled"]
    (root / "cuhk03_release" / RAW).unlink()
    (root / PROTOCOL).unlink()
    assert read_dataset([str(root)]).samples == dataset.samples


def test_crops_that_another_process_extracts_at_the_same_time_are_kept(root: Path) -> None:
    folder = root / "cuhk03-np" / "labeled"
    for _ in range(2):
        extract_crops(root, "labeled", folder)
        (folder / "first").touch()
    assert sorted(path.name for path in folder.iterdir()) == [
        "bounding_box_test",
        "bounding_box_train",
        "first",
        "query",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["labeled"]


def change(**arrays: NDArray[np.generic]) -> Callable[[Path], None]:
    return lambda root: savemat(root / PROTOCOL, {**protocol(), **arrays})


def tear(name: str, share: float) -> Callable[[Path], None]:
    def cut(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(share * len(content))])

    return cut


def damage(root: Path) -> None:
    content = bytearray((root / PROTOCOL).read_bytes())
    content[len(content) // 2] ^= 255  # inside the compressed data
    (root / PROTOCOL).write_bytes(content)


def put_first(array: NDArray[np.generic]) -> Callable[[Path], None]:
    return lambda root: write_raw(root / RAW_PATH, image_0_0_0=array)


def drop_arrays(root: Path) -> None:
    kept = {name: array for name, array in protocol().items() if name != "camId"}
    savemat(root / PROTOCOL, kept)


RAW_PATH = f"cuhk03_release/{RAW}"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / RAW_PATH).unlink(), r"holds .*labeled\.mat but no cuhk-03\.mat"),
        (tear(PROTOCOL, 0.0), r"config_labeled\.mat cannot be read as a protocol"),
        (tear(PROTOCOL, 0.3), r"config_labeled\.mat cannot be read as a protocol"),
        (tear(PROTOCOL, 0.9), r"config_labeled\.mat cannot be read as a protocol"),
        (
            lambda root: shutil.copy(root / RAW_PATH, root / PROTOCOL),
            r"config_labeled\.mat cannot be read as a protocol",
        ),
        (damage, r"config_labeled\.mat cannot be read as a protocol"),
        (put_first(np.zeros((3, 10), np.uint8)), r"image_0_0_0 of shape \(3, 10\), uint8, is no crop"),
        (
            put_first(np.zeros((4, 10, 20), np.uint8)),
            r"image_0_0_0 of shape \(4, 10, 20\), uint8, is no crop",
        ),
        (
            put_first(np.zeros((3, 10, 20), np.float64)),
            r"image_0_0_0 of shape \(3, 10, 20\), float64, is no crop",
        ),
        (
            put_first(np.zeros((3, 1, 5000), np.uint8)),
            r"image_0_0_0 of shape \(3, 1, 5000\), uint8, is no crop",
        ),
        (drop_arrays, r"config_labeled\.mat cannot be read as a protocol .*camId"),
        (change(query_idx=np.array([[0]])), "row 0 of query_idx names no crop"),
        (change(query_idx=np.array([[99]])), r"config_labeled\.mat cannot be read as a protocol"),
        (change(filelist=np.array([["../../a.png"]] * 20, object)), "row 1 of train_idx names no crop"),
        (
            change(filelist=np.array([["9_001_1_01.png"]] * 20, object)),
            r"cuhk-03\.mat cannot be read as CUHK03",
        ),
        (
            change(filelist=np.array([["5_003_2_10.png"]] * 20, object)),
            r"image_4_2_9 of shape \(2,\), uint64, is no crop",
        ),
        (tear(RAW_PATH, 0.0), r"cuhk-03\.mat cannot be read as CUHK03"),
        (tear(RAW_PATH, 0.5), r"cuhk-03\.mat cannot be read as CUHK03"),
        (lambda root: (root / RAW_PATH).write_bytes(b"MATLAB 5.0"), r"cuhk-03\.mat cannot be read as CUHK03"),
        (lambda root: h5py.File(root / RAW_PATH, "w").close(), r"cuhk-03\.mat cannot be read as CUHK03"),
        (lambda root: (root / "cuhk03-np").touch(), r"cuhk03-np/labeled cannot be written"),
    ],
)
def test_a_damaged_or_unexpected_file_is_named_and_leaves_no_folder(
    root: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(root)
    with pytest.raises(DatasetError, match=message):
        read_dataset([str(root)])
    assert not list(root.glob("cuhk03-np/*"))
