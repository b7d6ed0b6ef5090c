"""Q: a file that is no checkpoint is told what it is and what to do; wrapped state dicts are unwrapped."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foreign_networks import import_small, save_ir, save_small_onnx
from model.checkpoint import load_checkpoint
from model.errors import CheckpointError
from model.interop.state_dicts import read_state_dict


def saved(content: Any, *, is_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("network.safetensors", b"...")
    return buffer.getvalue()


GIVEN = {
    "zip": (zipped(), "is a zip: unpack it"),
    "pt": (saved({"model": {"a": torch.zeros(3)}}), "torch.save.*import-official.*exported as ONNX"),
    "pth": (saved({"a": torch.zeros(3)}, is_zip=False), "old .pth.*import-official"),
    "text": (b"these are no weights", "is plain text"),
    "html": (b"\n<!DOCTYPE html>\n<html>", "is a web page: the download has failed"),
    "empty": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "is an archive"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "picture": (b"\xff\xd8\xff\xe0" + bytes(100), "is an image"),
    "noise": (bytes(range(255, 0, -1)), "is no safetensors checkpoint"),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_q_a_file_of_another_kind_is_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    content, message = GIVEN[kind]
    check(tmp_path / "given", content, message)


def test_q_onnx_and_openvino_are_named_with_the_command_that_takes_them(tmp_path: Path) -> None:
    onnx, ir = save_small_onnx(tmp_path / "small.onnx"), save_ir(tmp_path / "small.xml")
    for path, message in (
        (onnx, "is an ONNX network: .*import-onnx"),
        (ir, "is the .xml of an OpenVINO IR: .*import-onnx.*with its .bin beside it"),
        (ir.with_suffix(".bin"), "import-onnx.*not the .bin"),
    ):
        check(tmp_path / "given", path.read_bytes(), message)


def check(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert "header would be" not in str(caught.value)


STATE = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}}, "iteration": 9},
        {"model": {"state_dict": STATE}},
        {"net": STATE},
        {"ema": STATE, "epoch": 3},
        {f"module.{name}": value for name, value in STATE.items()},
        {"model": {f"module._orig_mod.{name}": value for name, value in STATE.items()}},
    ],
)
def test_q_a_wrapped_state_dict_is_unwrapped(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "network.pth"
    path.write_bytes(saved(content))
    found = read_state_dict(path)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in STATE.items()
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"epoch": 3, "weights": {"layer": STATE}},
            "it has 'epoch', 'weights'; looked for are .* at state_dict",
        ),
        ([1, 2], "but one list"),
        (torch.ones(3), "but one Tensor"),
        ({}, "it has nothing"),
    ],
)
def test_q_what_is_there_instead_of_a_state_dict_is_told(
    tmp_path: Path, content: object | Tensor, message: str
) -> None:
    path = tmp_path / "network.pth"
    path.write_bytes(saved(content))
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(path)


def test_q_a_device_or_a_pipe_is_not_read_as_a_network(tmp_path: Path) -> None:
    """A device has no end, and a pipe that nobody writes to has no beginning."""
    endless, pipe = tmp_path / "endless.onnx", tmp_path / "pipe.onnx"
    endless.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    ir = save_ir(tmp_path / "small.xml")
    ir.with_suffix(".bin").unlink()
    ir.with_suffix(".bin").symlink_to(endless)
    for path in (endless, pipe, ir):
        with pytest.raises(CheckpointError, match=f"{path.name} cannot be read: .* device or a pipe"):
            import_small(path)
