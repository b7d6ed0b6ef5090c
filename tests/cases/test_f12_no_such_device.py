"""F12: a device or a precision that the machine does not have ends the start with one sentence."""

from pathlib import Path

import pytest
import torch

from model.errors import RuntimeUnavailable
from model.runtime import cpu_has_bf16, require_runtime
from service.cli.serve import launch
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
    ("name", "value"), [("REID_DEVICE", "cuda"), ("REID_PRECISION", "fp16"), ("REID_DEVICE", "cuda:7")]
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_f12_the_program_ends_before_it_makes_anything(
    tmp_path: Path,
    name: str,
    value: str,
    workers: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data_dir = tmp_path / "data"
    for key, chosen in ((name, value), ("REID_DATA_DIR", str(data_dir)), ("REID_WORKERS", workers)):
        monkeypatch.setenv(key, chosen)
    assert launch({}) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert name in said
    assert not data_dir.exists()
