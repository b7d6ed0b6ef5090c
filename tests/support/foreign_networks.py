"""Foreign networks for tests: a small network as ONNX and as OpenVINO IR, and any other ONNX graph."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from model.card import FOREIGN, Card
from model.checkpoint import save_foreign
from model.interop.foreign import import_foreign
from model.interop.graphs import openvino_core
from model.preprocess import Color
from model.runtime import convert

HEIGHT, WIDTH, SIZE = 64, 32, 12
ZERO: Color = (0.0, 0.0, 0.0)
ONE: Color = (1.0, 1.0, 1.0)


class Small(nn.Module):
    """A small network with random weights.

    It maps images (N, 3, H, W), or (N, H, W, 3) with ``is_nhwc``, to embeddings (N, 12).
    """

    def __init__(self, *, is_nhwc: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.is_nhwc = is_nhwc
        self.conv = nn.Conv2d(3, SIZE, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images.permute(0, 3, 1, 2) if self.is_nhwc else images)
        return torch.relu(maps).mean((2, 3))


@functools.cache
def _convert(is_nhwc: bool) -> openvino.Model:
    return convert(Small(is_nhwc=is_nhwc), (HEIGHT, WIDTH, 3) if is_nhwc else (3, HEIGHT, WIDTH))


def save_ir(path: Path, *, is_nhwc: bool = False, batch: int = 1) -> Path:
    """Write the small network as OpenVINO IR; a batch of -1 means any batch size."""
    graph = _convert(is_nhwc).clone()
    graph.reshape(openvino.PartialShape([batch, *list(graph.input().shape)[1:]]))
    openvino.save_model(graph, path, compress_to_fp16=False)
    return path


def save_small_onnx(path: Path, batch: int | str = "N") -> Path:
    """Write the small network as ONNX; its output is a map of 1 x 1, (N, 12, 1, 1)."""
    state = {name: value.numpy() for name, value in Small().state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["images", "conv.weight", "conv.bias"], ["maps"], strides=[4, 4]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["out"]),
    ]
    return save_onnx(path, nodes, constants=state, shape=(batch, 3, HEIGHT, WIDTH))


def save_onnx(
    path: Path,
    nodes: Sequence[Any],
    *,
    constants: dict[str, Any] | None = None,
    shape: Sequence[int | str] = (1, 3, HEIGHT, WIDTH),
    kind: int = TensorProto.FLOAT,
    inputs: Sequence[str] = ("images",),
    outputs: Sequence[str] = ("out",),
) -> Path:
    """Write a graph as ONNX; all inputs have the same shape and type."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def save_deadly(path: Path) -> str:
    """Write a checkpoint that crashes OpenVINO, which divides by a stride that is 0 in 32 bits."""
    nodes = [
        helper.make_node("MaxPool", ["images"], ["maps"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["out"]),
    ]
    onnx_path = save_onnx(path.with_suffix(".onnx"), nodes)
    openvino.save_model(openvino_core().read_model(onnx_path), path.with_suffix(".xml"))
    graph = path.with_suffix(".xml").read_bytes().replace(b'strides="2, 2"', b'strides="2, 4294967296"')
    return save_foreign(path, graph, path.with_suffix(".bin").read_bytes(), make_card(embedding_size=3))


def import_small(
    path: Path, channels: str = "rgb", scale: float = 255.0, mean: Color = ZERO, std: Color = ONE
) -> Path:
    """Import a foreign network with the input size of the small network; return the checkpoint."""
    out = path.with_name("out.safetensors")
    import_foreign(path, out, height=HEIGHT, width=WIDTH, mean=mean, std=std, channels=channels, scale=scale)
    return out


def make_card(**changes: Any) -> Card:
    """Return the card of the small network."""
    sizes = {"height": HEIGHT, "width": WIDTH, "embedding_size": SIZE, "num_identities": 0}
    return Card(**{"architecture": FOREIGN, **sizes, **changes})
