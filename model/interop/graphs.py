"""Foreign networks: untrusted graphs of OpenVINO IR, which a checkpoint holds as bytes.

These checks protect the process that reads a graph:

* The graph is read from memory, so that its weights come from the checkpoint and not from another file.
* The graph must begin as OpenVINO writes an IR. Otherwise OpenVINO would try its readers of other formats,
  and some of these open files that a network names.
* Every layer has a fixed size of at most MAX_LAYER_VALUES, and all together of at most MAX_GRAPH_VALUES.
* Loops and branches are refused, because a loop need not end. Layers that keep a state are refused, because
  the embedding of a crop would depend on the crop before.

The XML parser of OpenVINO (pugixml) expands no entities, and OpenVINO checks that each constant lies within
the weights. A hostile graph can still crash OpenVINO. Therefore `model/interop/trial.py` tries a foreign
network in another process.
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
"""The largest number of values in the output of a layer for one crop: 256 MiB in float32."""

MAX_GRAPH_VALUES = 1 << 28
"""The largest number of values in the outputs of all layers together: 1 GiB in float32. Constants do not
count, because the size of the checkpoint bounds them."""

REFUSED_LAYERS = ("Assign", "If", "Loop", "ReadValue", "TensorIterator")
UNCOUNTED_LAYERS = ("Constant", "Result")
GRAPH, WEIGHTS = "graph", "weights"
"""The names of the two tensors of a checkpoint, each of bytes: the .xml and the .bin of an IR."""

_BEGINNING = re.compile(rb'<\?xml version="1\.0"\?>\s*<net ')


@dataclass(frozen=True)
class ForeignNetwork:
    """A graph from one normalised image, float32 (1, 3, H, W), to its embedding, float32 (1, D)."""

    graph: openvino.Model


@functools.cache
def openvino_core() -> openvino.Core:
    """Return the OpenVINO core that the whole process shares.

    The core is never deleted, because deleting a core can kill the process on a CPU with AMX. There a core
    gives a signal stack to the thread that creates the core. The stack is unmapped when the last network of
    the core is deleted, even on another thread. The next signal to the first thread, such as the SIGCHLD of a
    data loader, then killed the process.
    """
    return openvino.Core()


def make_foreign(tensors: dict[str, Tensor], height: int, width: int, embedding_size: int) -> ForeignNetwork:
    """Read a foreign network from the tensors of a checkpoint, and check its layers and sizes.

    Args:
        tensors: GRAPH and WEIGHTS, each uint8 (number of bytes).
        height: of the images, in pixels, by the card.
        width: of the images, in pixels, by the card.
        embedding_size: numbers D in an embedding, by the card.

    Raises:
        CheckpointError: a tensor is missing, extra or no tensor of bytes, the graph cannot be read, a layer
            is refused, or a size is not the size in the card.
    """
    for name in (GRAPH, WEIGHTS):
        if name not in tensors or "uint8" not in str(tensors[name].dtype) or tensors[name].dim() != 1:
            raise CheckpointError(f"{name} must be a tensor of bytes")
    if len(tensors) != 2:
        raise CheckpointError(f"{len(tensors) - 2} tensors beside {GRAPH} and {WEIGHTS} do not belong there")
    graph = _read_graph(tensors[GRAPH], tensors[WEIGHTS])
    _check_port("input", graph.inputs, [1, 3, height, width])
    _check_port("output", graph.outputs, [1, embedding_size])
    check_layers(graph)
    return ForeignNetwork(graph)


def _read_graph(graph: Tensor, weights: Tensor) -> openvino.Model:
    if len(graph) > MAX_GRAPH_BYTES:
        raise CheckpointError(f"the graph has {len(graph):,} bytes; at most {MAX_GRAPH_BYTES:,} are read")
    xml = graph.numpy().tobytes()
    if not _BEGINNING.match(xml):
        raise CheckpointError("the graph does not begin as OpenVINO writes an IR")
    try:
        return openvino_core().read_model(xml, openvino.Tensor(weights.numpy()))
    except (RuntimeError, ValueError) as error:  # ValueError: a name that is not UTF-8
        raise CheckpointError(f"the graph cannot be read: {reason(error)}") from error


def _check_port(side: str, ports: list[openvino.Output], shape: list[int]) -> None:
    wanted = openvino.PartialShape(shape)
    is_float = [port.element_type == openvino.Type.f32 for port in ports]
    if is_float != [True] or ports[0].partial_shape != wanted:
        found = ", ".join(f"{port.partial_shape} of {port.element_type.to_string()}" for port in ports)
        raise CheckpointError(
            f"the {side} of the graph is {found or 'missing'}; the card says {wanted} of f32"
        )


def check_layers(graph: openvino.Model) -> None:
    """Check the kind and the output size of every layer.

    Raises:
        CheckpointError: a layer is one of REFUSED_LAYERS, or its output has no fixed size or more than
            MAX_LAYER_VALUES values, or all layers together have more than MAX_GRAPH_VALUES.
    """
    total = 0.0
    for layer in graph.get_ops():
        kind = layer.get_type_name()
        if kind in REFUSED_LAYERS:
            raise CheckpointError(f"the graph has the layer {kind}, which is refused")
        for output in layer.outputs():
            shape = output.partial_shape
            if shape.is_dynamic:
                raise CheckpointError(
                    f"the size of a layer {kind} in the graph depends on the image: {shape}"
                )
            num = float(np.prod(list(shape.to_shape()), dtype=np.float64))
            total += num if kind not in UNCOUNTED_LAYERS else 0
            if num > MAX_LAYER_VALUES:
                raise CheckpointError(
                    f"a layer {kind} in the graph is too large: {shape} exceeds {MAX_LAYER_VALUES:,} values"
                )
    if total > MAX_GRAPH_VALUES:
        raise CheckpointError(
            f"the layers of the graph together are too large: {total:,.0f} values exceed {MAX_GRAPH_VALUES:,}"
        )


def reason(error: Exception) -> str:
    """Return the message of an error of OpenVINO without the lines that name places in OpenVINO's source."""
    return str(error).strip().splitlines()[-1]
