"""Checkpoints whose tensors hold what no trained network holds, and headers that are dear to read."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from live_server import upload_model
from model.checkpoint import CARD_KEY, load_checkpoint
from model.errors import CheckpointError


def write(like: Path, path: Path, **tensors: Tensor) -> Path:
    """Write a checkpoint with other tensors in the place of some, or beside them."""
    card = json.dumps(load_checkpoint(like).card.to_dict())
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    path.write_bytes(save(load_file(like) | named, metadata={CARD_KEY: card}))
    return path


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.full((64,), torch.nan).to(torch.float8_e4m3fn), "not finite"),
        (torch.full((64,), torch.nan).to(torch.float8_e5m2), "not finite"),
        (torch.full((64,), 1e300, dtype=torch.float64), "not finite"),
        (torch.full((64,), torch.nan, dtype=torch.complex64), "complex numbers"),
        (torch.full((64,), -1e-5), "a variance below zero"),
        (torch.ones([1] * 20_000), r"is \(1, 1, .{,300}, not \(64,\)"),
    ],
)
def test_q_a_tensor_that_no_network_has_is_refused_in_a_short_sentence(
    client: httpx.Client, tiny_checkpoint: Path, tmp_path: Path, tensor: Tensor, fault: str
) -> None:
    """The embeddings of a network with a variance below zero are NaN in torch, and not in OpenVINO."""
    path = write(tiny_checkpoint, tmp_path / "odd.safetensors", neck__running_var=tensor)
    with pytest.raises(CheckpointError, match=fault) as caught:
        load_checkpoint(path)
    assert len(str(caught.value)) < 400
    answer = upload_model(client, path)
    assert (answer.status_code, answer.json()["code"]) == (422, "unfit_checkpoint"), answer.text


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_q_numbers_of_any_width_are_taken(tiny_checkpoint: Path, tmp_path: Path, kind: torch.dtype) -> None:
    path = write(tiny_checkpoint, tmp_path / "odd.safetensors", neck__weight=torch.ones(64).to(kind))
    weight = load_checkpoint(path).network.state_dict()["neck.weight"]
    assert weight.dtype == torch.float32
    assert weight.eq(1).all()


def test_q_a_string_of_backslashes_takes_no_memory(tmp_path: Path) -> None:
    """It took 230 MB."""
    header = b'{"' + b"\\" * 8_000_000
    path = tmp_path / "backslashes.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    program = f"""
import resource
from pathlib import Path
from model.checkpoint import _depth
header = Path({str(path)!r}).read_bytes()[8:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_depth(header)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000
    with pytest.raises(CheckpointError, match="no reid-gallery card"):
        load_checkpoint(path)
