"""F12: a device or a precision that the machine does not have ends the start with one sentence."""

import os
from pathlib import Path

import pytest
import torch

from command_line import reid
from model.errors import RuntimeUnavailable
from model.runtime import cpu_has_bf16, require_runtime
from service.errors import BadSettings
from service.serving.embedding import require_device
from service.settings import Settings

HAS_GPU = torch.cuda.is_available()


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("device", "precision"),
    [("cuda", "auto"), ("cuda", "fp16"), ("auto", "fp16"), ("cpu", "fp16"), ("torch-cpu", "fp16")],
)
def test_f12_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str, precision: str) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "device": device, "precision": precision})
    with pytest.raises(BadSettings, match=f"REID_DEVICE={device}, REID_PRECISION={precision}"):
        require_device(settings)


@pytest.mark.parametrize("device", ["cuda:7", "mps", "xpu", "gpu", ""])
def test_f12_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(RuntimeUnavailable, match="choose from"):
        require_runtime(device, "auto")


def test_f12_what_every_machine_has_is_let_through() -> None:
    for device in ("auto", "cpu", "torch-cpu"):
        for precision in ("auto", "fp32"):
            require_runtime(device, precision)
    require_runtime("torch-cpu", "bf16")
    if cpu_has_bf16():
        require_runtime("cpu", "bf16")


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("REID_PRECISION", "fp16", ("--workers", "2")),
        ("REID_DEVICE", "cuda:7", ()),
    ],
)
def test_f12_the_program_ends_before_it_makes_anything(
    tmp_path: Path, name: str, value: str, options: tuple[str, ...]
) -> None:
    data_dir = tmp_path / "data"
    env = {**os.environ, name: value}
    done = reid("serve", "--port", "0", "--data-dir", data_dir, *options, env=env)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 1
    assert len(said.splitlines()) == 1, said
    assert name in said
    assert not data_dir.exists()
