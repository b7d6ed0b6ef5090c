"""Extract the crops of CUHK03 from its MATLAB file."""

import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from training.data.datasets import DatasetError

RAW_NAME = "cuhk-03.mat"
MAX_SIDE = 4096
_SPLITS = {"bounding_box_train": "train_idx", "query": "query_idx", "bounding_box_test": "gallery_idx"}
_CROP_NAME = re.compile(r"(\d)_(\d{3})_\d_(\d{2})\.png")
_BAD_MATLAB_RAISES = (  # scipy and h5py on a damaged file, NumPy on an unexpected structure
    ArithmeticError,
    AttributeError,
    LookupError,
    MatReadError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)
Cell = tuple[int, int, int]  # camera pair, person and crop, each counted from 0


def extract_crops(root: str | Path, kind: str, folder: str | Path) -> None:
    """Write the crops of a protocol to a folder, in the layout and with the file names of CUHK03-NP.

    Args:
        root: holds the protocol, ``cuhk03_new_protocol_config_KIND.mat``. The crops, ``cuhk-03.mat`` (MATLAB
            7.3, which is HDF5), are in ``root`` or in ``root/cuhk03_release``.
        kind: ``labeled`` or ``detected``.
        folder: the folder to make; it appears complete or not at all.

    Raises:
        DatasetError: a .mat file is absent or cannot be read, or the folder cannot be written.
    """
    root, folder = Path(root), Path(folder)
    protocol = root / f"cuhk03_new_protocol_config_{kind}.mat"
    raw = next(
        (path for path in (root / RAW_NAME, root / "cuhk03_release" / RAW_NAME) if path.is_file()), None
    )
    if raw is None:
        raise DatasetError(
            f"{root} holds {protocol.name} but no {RAW_NAME}, nor does its folder cuhk03_release"
        )
    cells = _read_protocol(protocol)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{kind}-", dir=folder.parent) as temporary:
            whole = Path(temporary) / kind
            for name in _SPLITS:
                (whole / name).mkdir(parents=True)
            _write_crops(raw, kind, cells, whole)
            _publish(whole, folder)
    except OSError as error:
        advice = "link the .mat files into a writable folder, and give that"
        raise DatasetError(f"{folder} cannot be written ({error}): {advice}") from error


def _publish(whole: Path, folder: Path) -> None:
    try:
        whole.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process has made the same folder
            raise


def _read_protocol(path: Path) -> dict[str, Cell]:
    """Map the path of each crop to make, such as query/0001_c1_00001.png, to its cell in the crops' file."""
    try:
        arrays = loadmat(path, variable_names=["labels", "camId", "filelist", *_SPLITS.values()])
        labels, cameras = arrays["labels"].ravel(), arrays["camId"].ravel()
        files = [str(cell.item()) for cell in arrays["filelist"].ravel()]
        cells = {}
        for folder, name in _SPLITS.items():
            for number in arrays[name].ravel():
                row = int(number) - 1
                match = _CROP_NAME.fullmatch(files[row])
                if row < 0 or match is None:
                    raise ValueError(f"row {number} of {name} names no crop")
                crop = f"{folder}/{int(labels[row]):04d}_c{int(cameras[row])}_{row + 1:05d}.png"
                cells[crop] = (int(match[1]) - 1, int(match[2]) - 1, int(match[3]) - 1)
    except _BAD_MATLAB_RAISES as error:
        raise DatasetError(f"{path} cannot be read as a protocol of CUHK03-NP: {error}") from error
    return cells


def _write_crops(raw: Path, kind: str, cells: dict[str, Cell], folder: Path) -> None:
    description = f"crops of {raw.name}"
    try:
        with h5py.File(raw, "r") as file:
            pairs = [file[reference][()] for reference in file[kind][0]]
            for name, (pair, person, crop) in track(
                cells.items(), description=description, console=Console(stderr=True)
            ):
                image = Image.fromarray(_read_image(file[pairs[pair][crop, person]]))
                image.save(folder / name)
    except _BAD_MATLAB_RAISES as error:
        raise DatasetError(
            f"{raw} cannot be read as CUHK03, or its crops cannot be written: {error}"
        ) from error


def _read_image(dataset: Any) -> NDArray[np.uint8]:
    """Return the pixels, uint8 (H, W, 3), of a stored crop (3, W, H): MATLAB keeps arrays by column."""
    if (
        dataset.ndim != 3
        or dataset.shape[0] != 3
        or max(dataset.shape) > MAX_SIDE
        or dataset.dtype != np.uint8
    ):
        raise ValueError(f"{dataset.name} of shape {dataset.shape}, {dataset.dtype}, is no crop")
    return np.ascontiguousarray(dataset[()].T)
