"""The crops of CUHK03 as files, out of the MATLAB file that they come in."""

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
_BAD_MATLAB_RAISES = (  # what scipy and h5py raise for a torn file, and NumPy for one of another structure
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
Cell = tuple[int, int, int]  # pair of cameras, person, crop; from 0


def extract_crops(root: str | Path, kind: str, folder: str | Path) -> None:
    """Write the crops that the protocol names into ``folder``, in the layout and with the names of CUHK03-NP.

    ``cuhk-03.mat`` (MATLAB 7.3, which is HDF5) is in ``root`` or in ``root/cuhk03_release``; the protocol
    ``cuhk03_new_protocol_config_KIND.mat`` in ``root``. The folder appears whole or not at all.

    Raises:
        DatasetError: a file is absent or not what it should be, or the folder cannot be written.
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
        advice = "link the .mat files into a folder that can be, and give that"
        raise DatasetError(f"{folder} cannot be written ({error}): {advice}") from error


def _publish(whole: Path, folder: Path) -> None:
    try:
        whole.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was faster
            raise


def _read_protocol(path: Path) -> dict[str, Cell]:
    """Return the cell of each crop that a split has, by the path that the crop gets."""
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
        raise DatasetError(f"{raw} cannot be read as CUHK03, or its crops written: {error}") from error


def _read_image(dataset: Any) -> NDArray[np.uint8]:
    """Return pixels (H, W, 3) of what MATLAB, column by column, keeps as (3, W, H)."""
    if (
        dataset.ndim != 3
        or dataset.shape[0] != 3
        or max(dataset.shape) > MAX_SIDE
        or dataset.dtype != np.uint8
    ):
        raise ValueError(f"{dataset.name} of shape {dataset.shape}, {dataset.dtype}, is no crop")
    return np.ascontiguousarray(dataset[()].T)
