"""The weights of OpenVINO's person-reidentification-retail-0277 (Intel, Apache-2.0), for our OSNet.

In the published graph, batch normalisations are folded into convolutions and most names are lost. Its
constants are therefore matched with our modules by the order of use. A gate is used four times, and must have
the same constants each time.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import openvino
import torch
from torch import Tensor, nn

from model.architectures import build_network
from model.interop.graphs import openvino_core
from model.osnet import OsBlock

INPUT_CONSTANTS = 2
"""Constants at the beginning of the graph that normalise the image, and belong to no module."""

WEIGHTED = (nn.Conv2d, nn.InstanceNorm2d, nn.GroupNorm, nn.BatchNorm1d, nn.PReLU)


def read_osnet_weights(path: str | Path, *, height: int = 256, width: int = 128) -> dict[str, Tensor]:
    """Return the state dict of the architecture ``osnet``, without its classifier.

    Args:
        path: the .xml of the published graph.
        height: of the network's input, in pixels.
        width: of the network's input, in pixels.

    Raises:
        ValueError: the graph is not an OSNet with the same layers.
        RuntimeError: OpenVINO cannot read the file.
    """
    constants = list(_constants(openvino_core().read_model(path)))[INPUT_CONSTANTS:]
    state: dict[str, Tensor] = {}
    for name, shape in _names_in_order(height, width):
        if not constants:
            raise ValueError(f"{path} ends before {name}: it is not an OSNet like 0277")
        values = constants.pop(0)
        if values.numel() != shape.numel():
            raise ValueError(f"{path} has {tuple(values.shape)} for {name}, where {tuple(shape)} is expected")
        values = values.reshape(shape)
        if name in state and not torch.equal(state[name], values):
            raise ValueError(f"{path} uses different weights for the same {name}")
        state[name] = values
    if constants:
        raise ValueError(f"{path} has {len(constants)} tensors more than an OSNet like 0277")
    network = build_network("osnet", height=height, width=width, num_identities=1)
    network.load_state_dict(state, strict=False)  # the folded neck keeps mean 0 and variance 1
    return {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith("classifier.")
    }


def _names_in_order(height: int, width: int) -> Iterator[tuple[str, torch.Size]]:
    """Yield name and shape of our OSNet's weights in the order of use; a weight used again comes again."""
    network = build_network("osnet", height=height, width=width, num_identities=1)
    names = {module: name for name, module in network.named_modules()}
    for module in _modules_in_order(network):
        if isinstance(module, WEIGHTED):
            yield from (
                (f"{names[module]}.{name}", tensor.shape) for name, tensor in module.named_parameters()
            )


def _modules_in_order(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, OsBlock):
        parts = [module.reduce]
        for stream in (module.first, *module.others):
            parts += [stream, module.gate]
        children: Iterable[nn.Module] = [*parts, module.expand, module.shortcut]
    else:
        children = module.children()
    yield module
    for child in children:
        yield from _modules_in_order(child)


def _constants(graph: openvino.Model) -> Iterator[Tensor]:
    """Yield the constants of the graph's arithmetic, in the order of execution."""
    for operation in graph.get_ordered_ops():
        kind = operation.get_type_name()
        inputs = [_constant(operation.input_value(i).get_node()) for i in range(operation.get_input_size())]
        if kind in ("Convolution", "GroupConvolution", "MatMul", "PRelu", "Add", "Multiply", "Subtract"):
            yield from (values for values in inputs if values is not None)


def _constant(node: openvino.Node) -> Tensor | None:
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return (
        torch.from_numpy(np.array(node.get_data(), np.float32))
        if node.get_type_name() == "Constant"
        else None
    )
