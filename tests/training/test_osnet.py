"""The weights of the published OSNet, read from a graph of the same form with random weights."""

from pathlib import Path
from typing import Any

import openvino
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from model.architectures import build_network
from model.layers import ReidNetwork
from model.osnet import NUM_GROUPS, BottleneckGate, OsBlock
from model.preprocess import IMAGENET_MEAN, IMAGENET_STD
from model.runtime import convert
from training.weights.initial import Initial, InitialWeightsError, find_initial
from training.weights.osnet import read_osnet_weights

HEIGHT, WIDTH = 64, 32


class Published(nn.Module):
    """OSNet as in the published graph: pixels 0-255 in BGR, and a gate for every stream."""

    def __init__(self, network: ReidNetwork) -> None:
        super().__init__()
        self.network = network
        self.mean = 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        self.scale = 1 / (255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        stages: Any = network.backbone
        self.steps = [module for stage in stages for module in stage]

    def forward(self, pixels: Tensor) -> Tensor:
        maps = (pixels[:, [2, 1, 0]] - self.mean) * self.scale
        for module in self.steps:
            maps = self._block(module, maps) if isinstance(module, OsBlock) else module(maps)
        pooled = self.network.pool(maps).flatten(1)
        embedding: Tensor = self.network.activation(self.network.neck(pooled))
        return embedding

    def _block(self, block: OsBlock, maps: Tensor) -> Tensor:
        reduced = block.reduce(maps)
        fused: Tensor | None = None
        for stream in (block.first, *block.others):
            scale = stream(reduced)
            gated = scale * self._gate(block.gate, scale)
            fused = gated if fused is None else fused + gated
        return torch.relu(block.expand(fused) + block.shortcut(maps))

    def _gate(self, gate: nn.Sequential, maps: Tensor) -> Tensor:
        means = maps.mean(dim=(2, 3), keepdim=True)
        if isinstance(gate, BottleneckGate):
            weights: Tensor = gate(means)
            return weights
        affine: Any = gate[1]
        groups = means.reshape(1, NUM_GROUPS, -1)
        normalised = F.layer_norm(groups, groups.shape[2:]).reshape(means.shape)
        scaled = normalised * affine.weight.reshape(means.shape)
        return torch.sigmoid(scaled + affine.bias.reshape(means.shape))


@pytest.fixture(scope="module")
def osnet() -> ReidNetwork:
    torch.manual_seed(0)
    network = build_network("osnet", height=HEIGHT, width=WIDTH, num_identities=3).eval()
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:  # scales and shifts that are not 1 and 0
            nn.init.uniform_(parameter, 0.5, 1.5) if name.endswith("weight") else nn.init.normal_(parameter)
    return network


def test_the_gates_of_a_block_are_those_of_each_stream(osnet: ReidNetwork) -> None:
    pixels = torch.rand(1, 3, HEIGHT, WIDTH) * 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        published = Published(osnet)(pixels)
        ours = osnet((pixels[:, [2, 1, 0]] / 255 - mean) / std)
    assert float(F.cosine_similarity(ours, published).min()) > 1 - 1e-6
    torch.testing.assert_close(ours, published, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def graph(osnet: ReidNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of the published form, as a file."""
    path = tmp_path_factory.mktemp("graph") / "osnet.xml"
    openvino.save_model(convert(Published(osnet), (3, HEIGHT, WIDTH)), path, compress_to_fp16=False)
    return path


def test_a_network_with_the_weights_of_a_published_graph_gives_the_same_embeddings(
    osnet: ReidNetwork, graph: Path
) -> None:
    network = build_network("osnet", height=HEIGHT, width=WIDTH, num_identities=3).eval()
    network.load_state_dict(read_osnet_weights(graph, height=HEIGHT, width=WIDTH), strict=False)
    images = torch.rand(2, 3, HEIGHT, WIDTH)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), osnet(images), atol=1e-3, rtol=1e-3)


def test_attention_added_to_a_whole_network_starts_as_nearly_the_identity(
    osnet: ReidNetwork, graph: Path
) -> None:
    tensors = read_osnet_weights(graph, height=HEIGHT, width=WIDTH)
    with_attention = build_network("rga_sc_osnet", height=HEIGHT, width=WIDTH, num_identities=5).eval()
    Initial("osnet.xml", tensors, has_head=True).load_into(with_attention)
    images = torch.rand(4, 3, HEIGHT, WIDTH)
    with torch.inference_mode():
        cosines = F.cosine_similarity(with_attention(images), osnet(images))
    assert float(cosines.min()) > 0.99


def test_a_graph_of_another_network_is_refused(tmp_path: Path, graph: Path) -> None:
    with pytest.raises(ValueError, match=r"where .* is expected"):
        read_osnet_weights(graph, height=HEIGHT, width=2 * WIDTH)
    other = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), (3, HEIGHT, WIDTH))
    openvino.save_model(other, tmp_path / "other.xml")
    with pytest.raises(InitialWeightsError, match=r"other\.xml cannot be used"):
        find_initial(str(tmp_path / "other.xml"), "rga_sc_osnet")
    (tmp_path / "torn.xml").write_text("<net")
    with pytest.raises(InitialWeightsError, match=r"torn\.xml cannot be used"):
        find_initial(str(tmp_path / "torn.xml"), "rga_sc_osnet")
