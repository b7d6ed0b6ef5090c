"""OpenVINO's core, and the networks of others: graphs of its IR that a checkpoint holds as bytes.

Such a graph is untrusted. It is read from memory, so that its weights are those beside it, and it must begin
as OpenVINO writes it, so that no reader of another format is asked, some of which open files that a network
names. The parser (pugixml) expands no entities, and OpenVINO checks where each constant lies. A layer must
have a size, and not a huge one; there may be no loops, which need not end, and no memory between two crops.
All this does not hinder OpenVINO from dying of a graph that is made for it: see `model/interop/trial.py`.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np
import openvino
from torch import Tensor

from model.errors import CheckpointError

MAX_GRAPH_BYTES = 32 << 20
MAX_LAYER_VALUES = 1 << 26
"""What a layer of a foreign network may give for one crop: 256 MiB in float32."""

REFUSED_LAYERS = ("Assign", "If", "Loop", "ReadValue", "TensorIterator")
GRAPH, WEIGHTS = "graph", "weights"
"""The names of the two tensors, of bytes."""

_BEGINNING = re.compile(rb'<\?xml version="1\.0"\?>\s*<net ')


@dataclass(frozen=True)
class ForeignNetwork:
    """A graph from one normalised image, float32 (1, 3, H, W), to its embedding, float32 (1, D)."""

    graph: openvino.Model


@functools.cache
def openvino_core() -> openvino.Core:
    """Return the process's one OpenVINO core, which lives as long as the process.

    On a processor with AMX a core gives the thread that makes it a signal stack of its own and unmaps it when
    the last network made with it goes, on whatever thread that is: the next signal (Ctrl-C, say, or a data
    loader's SIGCHLD) then killed the process.
    """
    return openvino.Core()


def make_foreign(tensors: dict[str, Tensor], height: int, width: int, embedding_size: int) -> ForeignNetwork:
    """Read the graph of a checkpoint's tensors and check it against the sizes of its card.

    Raises:
        CheckpointError: it cannot be read, does what no network here may, or has other sizes.
    """
    for name in (GRAPH, WEIGHTS):
        if name not in tensors or "uint8" not in str(tensors[name].dtype) or tensors[name].dim() != 1:
            raise CheckpointError(f"{name} must be a tensor of bytes")
    if len(tensors) != 2:
        raise CheckpointError(f"{len(tensors) - 2} tensors beside {GRAPH} and {WEIGHTS} do not belong there")
    graph = _read_graph(tensors[GRAPH], tensors[WEIGHTS])
    _check_port("takes", graph.inputs, [1, 3, height, width])
    _check_port("answers with", graph.outputs, [1, embedding_size])
    check_layers(graph)
    return ForeignNetwork(graph)


def _read_graph(graph: Tensor, weights: Tensor) -> openvino.Model:
    if len(graph) > MAX_GRAPH_BYTES:
        raise CheckpointError(f"its graph has {len(graph):,} bytes; at most {MAX_GRAPH_BYTES:,} are read")
    xml = graph.numpy().tobytes()
    if not _BEGINNING.match(xml):
        raise CheckpointError("its graph is no OpenVINO IR as OpenVINO writes it")
    try:
        return openvino_core().read_model(xml, openvino.Tensor(weights.numpy()))
    except (RuntimeError, ValueError) as error:  # ValueError: a name that is not UTF-8
        raise CheckpointError(f"its graph cannot be read: {reason(error)}") from error


def _check_port(verb: str, ports: list[openvino.Output], shape: list[int]) -> None:
    wanted = openvino.PartialShape(shape)
    is_float = [port.element_type == openvino.Type.f32 for port in ports]
    if is_float != [True] or ports[0].partial_shape != wanted:
        found = ", ".join(f"{port.partial_shape} of {port.element_type.to_string()}" for port in ports)
        raise CheckpointError(f"its graph {verb} {found or 'nothing'}; its card says {wanted} of f32")


def check_layers(graph: openvino.Model) -> None:
    """Look at what every layer is, and how much it gives for one crop.

    Raises:
        CheckpointError: it is a loop, a branch or a memory, has no fixed size, or is too large.
    """
    for layer in graph.get_ops():
        kind = layer.get_type_name()
        if kind in REFUSED_LAYERS:
            raise CheckpointError(f"its graph has the layer {kind}, which is not run here")
        for output in layer.outputs():
            shape = output.partial_shape
            if shape.is_dynamic:
                raise CheckpointError(
                    f"the size of a layer {kind} in its graph depends on the image: {shape}"
                )
            if np.prod(list(shape.to_shape()), dtype=np.float64) > MAX_LAYER_VALUES:
                raise CheckpointError(f"a layer {kind} in its graph is too large: {shape}")


def reason(error: Exception) -> str:
    """Return what OpenVINO says of an error; the lines before name places in its source."""
    return str(error).strip().splitlines()[-1]
