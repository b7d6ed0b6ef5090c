"""The engines that run a network: OpenVINO on a CPU, torch on a GPU (and on a CPU if asked for)."""

import copy
import functools
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import Layout
from openvino.preprocess import PrePostProcessor
from torch import nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from model.attention import RelationAttention, RelationAwareGlobalAttention
from model.checkpoint import Checkpoint
from model.converted import ConvertedCache
from model.errors import CheckpointError, RuntimeUnavailable
from model.interop.graphs import ForeignNetwork, openvino_core, reason
from model.layers import ReidNetwork
from model.preprocess import Pixels, Preprocess

DEVICES = ("auto", "cpu", "cuda", "torch-cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Floats = NDArray[np.float32]


class Runtime(Protocol):
    """Runs crops through one network. Many threads may call it at once."""

    name: str

    def run(self, pixels: Pixels) -> Floats:
        """Embed crops that have the size of the network's input.

        Args:
            pixels: uint8 (N, H, W, 3) in RGB.

        Returns:
            float32 (N, D), not of length 1.
        """
        ...


@functools.cache
def cpu_has_bf16() -> bool:
    """Say whether the processor has instructions for bf16 (AVX512-BF16 or AMX)."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def make_runtime(
    checkpoint: Checkpoint,
    device: str,
    precision: str,
    cache_dir: str | Path | None,
    *,
    is_cache_read_only: bool = False,
) -> Runtime:
    """Choose the engine for a checkpoint.

    OpenVINO runs every foreign network, on any device. The precision is then fp32, unless bf16 is asked for
    and the processor has bf16, because the loss of accuracy in bf16 is unknown.

    Args:
        checkpoint: the network.
        device: ``auto`` is CUDA if torch finds a CUDA device, else OpenVINO on the CPU. ``cpu`` is OpenVINO,
            ``cuda`` is torch on a GPU, ``torch-cpu`` is torch on the CPU.
        precision: ``auto`` is bf16 if the device has bf16. Otherwise ``auto`` is fp16 on CUDA and fp32 on a
            CPU. On ``torch-cpu``, ``auto`` is fp32.
        cache_dir: folder where OpenVINO's graphs are kept, or None.
        is_cache_read_only: whether nothing may be written into that folder.

    Raises:
        RuntimeUnavailable: the device or precision is unknown, or this machine does not have it.
        CheckpointError: OpenVINO cannot run the network.
    """
    _require_known(device, precision)
    if isinstance(checkpoint.contents, ForeignNetwork):
        is_bf16 = precision == "bf16" and cpu_has_bf16()
        return OpenVinoRuntime(checkpoint, "bf16" if is_bf16 else "fp32", None)
    require_runtime(device, precision)
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return TorchRuntime(checkpoint, "cuda", _cuda_precision(precision))
    if device == "torch-cpu":
        return TorchRuntime(checkpoint, "cpu", "fp32" if precision == "auto" else precision)
    if precision == "auto":
        precision = "bf16" if cpu_has_bf16() else "fp32"
    return OpenVinoRuntime(checkpoint, precision, cache_dir, is_cache_read_only=is_cache_read_only)


def require_runtime(device: str, precision: str) -> None:
    """Check, before any network is loaded, that this machine has a device and a precision.

    Args:
        device: as in ``make_runtime``.
        precision: as in ``make_runtime``.

    Raises:
        RuntimeUnavailable: the device or precision is unknown, or this machine does not have it.
    """
    _require_known(device, precision)
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeUnavailable(
            "device 'cuda' was asked for, but torch finds no CUDA device; use auto or cpu, or install a "
            "driver that fits"
        )
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return
    if precision == "fp16":
        raise RuntimeUnavailable("precision 'fp16' needs a CUDA device; use auto, fp32 or bf16 on a CPU")
    if precision == "bf16" and device != "torch-cpu" and not cpu_has_bf16():
        raise RuntimeUnavailable("precision 'bf16' was asked for, but this processor has no bf16; use fp32")


def _require_known(device: str, precision: str) -> None:
    if device not in DEVICES or precision not in PRECISIONS:
        raise RuntimeUnavailable(
            f"device {device!r} with precision {precision!r}: choose from {', '.join(DEVICES)} and "
            f"{', '.join(PRECISIONS)}"
        )


def _cuda_precision(precision: str) -> str:
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


class TorchRuntime:
    """A network in torch, with the channels last in memory. Crops are normalised on the device."""

    def __init__(self, checkpoint: Checkpoint, device: str, precision: str) -> None:
        self.name = f"torch-{device}-{precision}"
        self._device = torch.device(device)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        network = checkpoint.network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: nn.Module = network.eval()
        self._normalise = checkpoint.preprocess.normalise

    def run(self, pixels: Pixels) -> Floats:
        """Embed crops, as ``Runtime.run`` says."""
        images = self._normalise(torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2))
        is_mixed = self._dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, enabled=is_mixed):
            embeddings: Floats = self._network(images).float().cpu().numpy()
        return embeddings


class OpenVinoRuntime:
    """A network converted to OpenVINO, which runs one crop at a time.

    A batch of one is used for many crops too, because a graph of any batch size was slower.

    With precision bf16 the network is two graphs: the stem in fp32, the rest in bf16. The reason is that
    nearly all of MobileNetV2's error came from its stem: the lowest cosine with fp32 was 0.989 with the stem
    in bf16, and is 0.9997 with the stem in fp32. With the stem in fp32, OSNet stays above 0.999 even on
    noise. A foreign network is one graph, because its stem is unknown.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: str,
        cache_dir: str | Path | None,
        *,
        is_cache_read_only: bool = False,
    ) -> None:
        self.name = f"openvino-{precision}"
        cache = None if cache_dir is None else ConvertedCache(cache_dir, is_read_only=is_cache_read_only)
        graphs = _converted(checkpoint, precision, cache)
        hints = (["f32"] if precision == "fp32" else ["f32", "bf16"])[-len(graphs) :]
        self._compiled = [_compile(graph, hint) for graph, hint in zip(graphs, hints, strict=True)]
        self._requests = threading.local()

    def run(self, pixels: Pixels) -> Floats:
        """Embed crops, as ``Runtime.run`` says."""
        return np.concatenate([self._run_one(crop) for crop in pixels])

    def _run_one(self, crop: Pixels) -> Floats:
        if not hasattr(self._requests, "own"):
            self._requests.own = [compiled.create_infer_request() for compiled in self._compiled]
        maps: NDArray[Any] = crop[None]
        for request in self._requests.own:
            maps = request.infer([maps])[0]
        return np.array(maps, np.float32)  # a copy, because the request overwrites its output


def _compile(graph: openvino.Model, hint: str) -> openvino.CompiledModel:
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    try:
        return openvino_core().compile_model(graph, "CPU", options)
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO cannot run the network: {reason(error)}") from error


class _Rest(nn.Module):
    """A network without its stem: the other stages, the pooling and the neck."""

    def __init__(self, network: ReidNetwork) -> None:
        super().__init__()
        self.stages = network.backbone[1:]
        self.network = network

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.network.pool_and_norm(self.stages(maps))  # type: ignore[return-value] # in eval mode


def _converted(checkpoint: Checkpoint, precision: str, cache: ConvertedCache | None) -> list[openvino.Model]:
    """Return the graphs of a network, from the cache if they are whole there.

    A foreign network is a graph already and is not kept in the cache.
    """
    if isinstance(checkpoint.contents, ForeignNetwork):
        graph = checkpoint.contents.graph.clone()
        return [_take_pixels(graph, checkpoint.preprocess, is_bgr=checkpoint.card.channels == "bgr")]
    convert_all = _convert_whole if precision == "fp32" else _convert_parts
    if cache is None:
        return convert_all(checkpoint)
    prefix = f"{checkpoint.version}-{openvino.__version__.split('-')[0]}-u8"
    names = [f"{prefix}-{part}" for part in (["whole"] if precision == "fp32" else ["stem", "rest"])]
    kept = [graph for name in names if (graph := cache.load(name)) is not None]
    if len(kept) == len(names):
        return kept
    graphs = convert_all(checkpoint)
    for name, graph in zip(names, graphs, strict=True):
        cache.save(name, graph)
    return graphs


def _convert_whole(checkpoint: Checkpoint) -> list[openvino.Model]:
    return [_take_pixels(_on_images(checkpoint, checkpoint.network), checkpoint.preprocess)]


def _convert_parts(checkpoint: Checkpoint) -> list[openvino.Model]:
    stem = _on_images(checkpoint, checkpoint.network.backbone[0])
    rest = convert(_Rest(checkpoint.network), stem.output(0).shape[1:])
    passing = PrePostProcessor(stem)
    passing.output().model().set_layout(Layout("NCHW"))
    passing.output().tensor().set_layout(Layout("NHWC"))
    return [_take_pixels(passing.build(), checkpoint.preprocess), _take_channels_last(rest)]


def _on_images(checkpoint: Checkpoint, module: nn.Module) -> openvino.Model:
    return convert(module, (3, checkpoint.card.height, checkpoint.card.width))


def _take_pixels(graph: openvino.Model, preprocess: Preprocess, *, is_bgr: bool = False) -> openvino.Model:
    """Let a graph take pixels as Pillow has them, uint8 (1, H, W, 3) in RGB, and normalise them."""
    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(Layout("NHWC"))
    steps.input().model().set_layout(Layout("NCHW"))
    mean, std = ([255 * value for value in values] for values in (preprocess.mean, preprocess.std))
    chain = steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(std)
    if is_bgr:
        chain.reverse_channels()
    return steps.build()


def _take_channels_last(graph: openvino.Model) -> openvino.Model:
    """Let a graph take feature maps in the layout that OpenVINO computes in, (1, H, W, C)."""
    steps = PrePostProcessor(graph)
    steps.input().tensor().set_layout(Layout("NHWC"))
    steps.input().model().set_layout(Layout("NCHW"))
    return steps.build()


class _SplitAttention(nn.Module):
    """A RelationAttention in eval mode that has a convolution for each embedding.

    `RelationAttention` makes all embeddings by one convolution and then splits the maps, which costs OpenVINO
    more time than three convolutions.
    """

    def __init__(self, attention: RelationAttention) -> None:
        super().__init__()
        self.attention = attention
        norm: Any = attention.embed_norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.kernels = (attention.embed.weight * scale[:, None, None, None]).chunk(attention.num_parts)
        self.biases = (norm.bias - norm.running_mean * scale).chunk(attention.num_parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.kernels, self.biases, strict=True)
        embeddings = [torch.relu(nn.functional.conv2d(x, kernel, bias)) for kernel, bias in pairs]
        return self.attention.attend(tuple(embeddings))


def _split_attention(module: nn.Module) -> nn.Module:
    """Return a copy of a module, with the same tensors, in which every RelationAttention is split."""
    tensors = [*module.parameters(), *module.buffers()]
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    for attention in [m for m in copied.modules() if isinstance(m, RelationAwareGlobalAttention)]:
        for name in ("spatial", "channel"):
            if (part := getattr(attention, name)) is not None:
                setattr(attention, name, _SplitAttention(part))
    return copied


def convert(module: nn.Module, shape: Sequence[int]) -> openvino.Model:
    """Convert a module of torch to a graph of OpenVINO.

    The module is traced here, because OpenVINO would trace it twice to compare the traces, which took nearly
    as long as all the rest.

    Args:
        module: any module with one input and one output.
        shape: of the input, without the batch size, which is 1.
    """
    example = torch.zeros(1, *shape)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the converter uses torch.jit
        warnings.simplefilter("ignore", TracerWarning)  # warns of fixed shapes, which are wanted
        traced = torch.jit.trace(_split_attention(module.eval()), example, strict=False, check_trace=False)
        return openvino.convert_model(traced, example_input=example, input=[1, *shape])
