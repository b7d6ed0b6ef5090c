"""Building every network by its name."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.architectures import ARCHITECTURES, VARIANTS, build_network
from model.attention import RelationAwareGlobalAttention
from model.errors import UnknownArchitecture
from model.layers import StridedDepthwise, TrainingOutput
from references import use_full_affinity

PAPERS = "rga_sc_resnet50"


RUN = [
    *("rga_sc_resnet50", "rga_s_resnet50", "rga_c_resnet50", "resnet50"),
    *("rga_sc_mobilenet_v2", "mobilenet_v2", "rga_sc_osnet", "rga_sc_all_osnet", "osnet"),
    *(name for name in ARCHITECTURES if name.endswith("tiny")),
]
"""Every trunk, and every variant on the smallest one."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_can_be_built_at_another_size(name: str) -> None:
    with torch.device("meta"):
        assert build_network(name, height=384, width=192, num_identities=5).num_identities == 5


@pytest.mark.parametrize("name", RUN)
def test_every_network_trains_and_embeds(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, height=64, width=32, num_identities=5)
    images = torch.randn(4, 3, 64, 32)
    output = network.train()(images)
    assert isinstance(output, TrainingOutput)
    assert output.pooled.shape == output.embedding.shape == (4, network.embedding_size)
    assert output.logits.shape == (4, 5)
    output.logits.square().sum().backward()
    without = {n for n, p in network.named_parameters() if p.grad is None and p.requires_grad}
    assert not without
    with torch.inference_mode():
        assert network.eval()(images).shape == (4, network.embedding_size)


@pytest.mark.parametrize(
    "name",
    ["rga_sc_resnet50", "rga_sc_mobilenet_v2", "tiny"] + [f"{variant}_tiny" for variant in VARIANTS],
)
def test_a_whole_network_agrees_with_its_full_affinity_twin(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, height=64, width=32, num_identities=5).double().train()
    images = torch.randn(4, 3, 64, 32, dtype=torch.float64)
    with torch.inference_mode():
        ours, theirs = network(images), use_full_affinity(network)(images)
    torch.testing.assert_close(ours.pooled, theirs.pooled)


@pytest.mark.parametrize(
    ("name", "modules", "parts"),
    [
        ("rga_sc_resnet50", 4, (True, True)),
        ("rga_s_resnet50", 4, (True, False)),
        ("rga_c_resnet50", 4, (False, True)),
        ("rga_sc_mobilenet_v2", 4, (True, True)),
        ("rga_cs_resnet50", 4, (True, True)),
        ("rga_sc_stage2_resnet50", 1, (True, True)),
        ("rga_sc_all_osnet", 3, (True, True)),
        ("rga_sc_osnet", 1, (True, True)),
        ("resnet50", 0, (False, False)),
        ("plain_tiny", 0, (False, False)),
    ],
)
def test_a_network_has_the_attention_its_name_says(name: str, modules: int, parts: tuple[bool, bool]) -> None:
    with torch.device("meta"):
        network = build_network(name, height=256, width=128, num_identities=5)
    found = [m for m in network.modules() if isinstance(m, RelationAwareGlobalAttention)]
    assert len(found) == modules
    assert {(m.spatial is not None, m.channel is not None) for m in found} <= {parts}


@pytest.mark.parametrize("trunk", ["resnet50", "mobilenet_v2"])
def test_a_single_module_follows_the_stage_in_the_name_of_the_network(trunk: str) -> None:
    with torch.device("meta"):
        for place, grid in enumerate([(64, 32), (32, 16), (16, 8), (16, 8)], start=1):
            network = build_network(f"rga_sc_stage{place}_{trunk}", height=256, width=128, num_identities=5)
            modules = [
                (i, m) for i, m in enumerate(network.backbone) if isinstance(m, RelationAwareGlobalAttention)
            ]
            ((at, module),) = modules
            assert module.grid[1:] == grid
            assert at == place + (trunk == "resnet50")


def test_the_grids_are_those_of_strides_4_8_16_and_16() -> None:
    with torch.device("meta"):
        for name in (PAPERS, "rga_sc_mobilenet_v2"):
            network = build_network(name, height=256, width=128, num_identities=5)
            grids = [m.grid[1:] for m in network.modules() if isinstance(m, RelationAwareGlobalAttention)]
            assert grids == [(64, 32), (32, 16), (16, 8), (16, 8)]


def test_rga_sc_resnet50_costs_about_half_of_the_authors_code() -> None:
    with torch.device("meta"):
        network = build_network(PAPERS, height=256, width=128, num_identities=751).eval()
        images = torch.empty(1, 3, 256, 128)
    with FlopCounterMode(display=False) as ours, torch.inference_mode():
        network(images)
    with FlopCounterMode(display=False) as theirs, torch.inference_mode():
        use_full_affinity(network)(images)
    assert ours.get_total_flops() <= 10.2e9
    assert theirs.get_total_flops() == pytest.approx(19.65e9, rel=0.01)


def test_the_neck_has_a_frozen_bias_and_the_classifier_none() -> None:
    network = build_network("tiny", height=64, width=32, num_identities=5)
    assert not network.neck.bias.requires_grad
    assert network.neck.weight.requires_grad
    assert network.classifier.bias is None


def test_a_strided_depthwise_convolution_equals_the_plain_one_and_stays_float32_under_autocast() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False)
    layer = StridedDepthwise.like(plain)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, 9, 7)
    torch.testing.assert_close(layer(x), plain(x), atol=0, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).dtype == torch.float32


def test_the_error_for_an_unknown_name_lists_the_known_names() -> None:
    with pytest.raises(UnknownArchitecture, match="rga_sc_mobilenet_v2"):
        build_network("resnet51", height=64, width=32, num_identities=5)


@pytest.mark.parametrize(
    ("height", "width", "identities"), [(0, 32, 5), (65, 32, 5), (64, 8, 5), (64, 32, 0)]
)
def test_an_argument_out_of_range_is_refused(height: int, width: int, identities: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        build_network("tiny", height=height, width=width, num_identities=identities)
