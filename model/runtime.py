"""The two engines that run a network: torch on a GPU (or where it is asked for), OpenVINO on a CPU."""

import functools
import os
import threading
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch import nn

from model.checkpoint import Checkpoint
from model.errors import RuntimeUnavailable

DEVICES = ("auto", "cpu", "cuda", "torch-cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Floats = NDArray[np.float32]


class Runtime(Protocol):
    """Runs batches through one network; callable from many threads at once."""

    name: str

    def run(self, images: Floats) -> Floats:
        """Return embeddings (N, D), not normalised, for normalised images (N, 3, H, W)."""
        ...


@functools.cache
def cpu_has_bf16() -> bool:
    """Say whether the processor computes in bf16 natively (AVX512-BF16 or AMX)."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def make_runtime(checkpoint: Checkpoint, device: str, precision: str, cache_dir: Path | None) -> Runtime:
    """Choose the engine: CUDA where there is one, else OpenVINO; ``torch-cpu`` is torch on the processor.

    ``auto`` precision is bf16 where the device computes in it, else fp16 on CUDA and fp32 on a processor.

    Raises:
        RuntimeUnavailable: the device or precision is unknown, or not on this machine.
    """
    if device not in DEVICES or precision not in PRECISIONS:
        raise RuntimeUnavailable(
            f"device {device!r} with precision {precision!r}: choose from {', '.join(DEVICES)} and "
            f"{', '.join(PRECISIONS)}"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeUnavailable("device 'cuda' was asked for, and torch sees no CUDA device")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return TorchRuntime(checkpoint, "cuda", _cuda_precision(precision))
    if precision == "fp16":
        raise RuntimeUnavailable("precision 'fp16' needs a CUDA device; a processor runs fp32 or bf16")
    if device == "torch-cpu":
        return TorchRuntime(checkpoint, "cpu", "fp32" if precision == "auto" else precision)
    if precision == "bf16" and not cpu_has_bf16():
        raise RuntimeUnavailable("precision 'bf16' was asked for, and this processor does not compute in it")
    if precision == "auto":
        precision = "bf16" if cpu_has_bf16() else "fp32"
    return OpenVinoRuntime(checkpoint, precision, cache_dir)


def _cuda_precision(precision: str) -> str:
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


class TorchRuntime:
    """The network in torch, channels-last."""

    def __init__(self, checkpoint: Checkpoint, device: str, precision: str) -> None:
        self.name = f"torch-{device}-{precision}"
        self._device = torch.device(device)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        network = checkpoint.network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: nn.Module = network.eval()

    def run(self, images: Floats) -> Floats:
        """Return embeddings (N, D) for normalised images (N, 3, H, W)."""
        batch = torch.from_numpy(images).to(self._device, memory_format=torch.channels_last)
        is_mixed = self._dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, enabled=is_mixed):
            embeddings: Floats = self._network(batch).float().cpu().numpy()
        return embeddings


class OpenVinoRuntime:
    """The network converted to OpenVINO, kept on disk by checkpoint version: a second start is quick."""

    def __init__(self, checkpoint: Checkpoint, precision: str, cache_dir: Path | None) -> None:
        self.name = f"openvino-{precision}"
        graph = _converted(checkpoint, cache_dir)
        hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = openvino.Core().compile_model(graph, "CPU", options)
        self._requests = threading.local()

    def run(self, images: Floats) -> Floats:
        """Return embeddings (N, D) for normalised images (N, 3, H, W)."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        result = self._requests.own.infer([images])[0]
        return np.array(result, dtype=np.float32)  # a copy: the request owns its output


def _converted(checkpoint: Checkpoint, cache_dir: Path | None) -> openvino.Model:
    if cache_dir is None:
        return convert(checkpoint.network, checkpoint.card.height, checkpoint.card.width)
    path = cache_dir / f"{checkpoint.version}-{openvino.__version__.split('-')[0]}.xml"
    if not path.exists():
        _save(convert(checkpoint.network, checkpoint.card.height, checkpoint.card.width), path)
    try:
        return openvino.Core().read_model(path)
    except RuntimeError:  # torn by a full disk, say: what can be derived is derived again
        _save(convert(checkpoint.network, checkpoint.card.height, checkpoint.card.width), path)
        return openvino.Core().read_model(path)


def _save(graph: openvino.Model, path: Path) -> None:
    """Write the .bin, then the .xml that makes it visible, each by a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    openvino.save_model(graph, temporary, compress_to_fp16=False)
    temporary.with_suffix(".bin").replace(path.with_suffix(".bin"))
    temporary.replace(path)


def convert(network: nn.Module, height: int, width: int) -> openvino.Model:
    """Convert a torch network for images (N, 3, height, width), N free, to an OpenVINO graph."""
    example = torch.zeros(2, 3, height, width)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the converter's own use of torch.jit
        return openvino.convert_model(network.eval(), example_input=example, input=[-1, 3, height, width])
