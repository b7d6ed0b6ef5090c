"""Attention maps over crops: values, colours and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageStat

from live_server import make_checkpoint, person
from model.attention import RelationAwareGlobalAttention
from model.checkpoint import load_checkpoint
from training import visualize
from training.reports.attention_maps import VisualizeError, attention_maps, draw_attention, overlay
from training_command import run_command


@pytest.fixture(scope="module")
def network_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny seeded network."""
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    make_checkpoint(path)
    return path


def test_the_brightest_colours_are_where_the_map_is_high() -> None:
    grey = Image.new("RGB", (32, 64), (128, 128, 128))
    map_hw = np.full((4, 2), 0.2, np.float32)
    map_hw[3, 1] = 0.9
    hot = overlay(grey, map_hw, 0.2, 0.9)
    light = np.asarray(hot.convert("L"), np.float32)
    hottest = np.unravel_index(light.argmax(), light.shape)
    assert hottest[0] >= 48
    assert hottest[1] >= 16
    assert light[hottest] > 3 * light[:32].max()


def test_a_map_that_hardly_varies_looks_flat_on_the_common_scale() -> None:
    crop = person(1)
    map_Nhw = np.full((1, 4, 2), 0.98, np.float32)
    map_Nhw[0, 0, 0] = 0.981
    own, common = (
        draw_attention([Image.new("RGB", crop.size)], [map_Nhw], common_scale=is_common).crop(
            (160, 38, 288, 294)
        )
        for is_common in (False, True)
    )
    assert ImageStat.Stat(own.convert("L")).stddev[0] > 20
    assert ImageStat.Stat(common.convert("L")).stddev[0] < 1


def test_rounding_errors_of_a_flat_map_are_not_magnified() -> None:
    map_hw = (0.5 + np.array([[0, 1e-6], [1e-6, 0]])).astype(np.float32)
    flat = overlay(Image.new("RGB", (32, 64)), map_hw, float(map_hw.min()), float(map_hw.max()))
    assert ImageStat.Stat(flat.convert("L")).stddev[0] < 2


def test_the_maps_are_what_each_stage_multiplies_by(network_path: Path) -> None:
    checkpoint = load_checkpoint(network_path)
    images = [person(1), person(2)]
    (maps_Nhw,) = attention_maps(checkpoint, images)
    trunk, rga = checkpoint.network.backbone[:-1], checkpoint.network.backbone[-1]
    assert isinstance(rga, RelationAwareGlobalAttention)
    assert rga.spatial is not None
    with torch.inference_mode():
        expected = rga.spatial(trunk(checkpoint.preprocess(images)))[:, 0].numpy()
    assert maps_Nhw.shape == (2, 4, 2)
    np.testing.assert_allclose(maps_Nhw, expected, rtol=1e-5)
    assert not any(module._forward_hooks for module in checkpoint.network.modules())


def test_each_stage_of_a_network_has_its_map(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "network.safetensors", architecture="rga_sc_mobilenet_v2")
    maps = attention_maps(load_checkpoint(tmp_path / "network.safetensors"), [person(1)])
    assert [stage.shape for stage in maps] == [(1, 16, 8), (1, 8, 4), (1, 4, 2), (1, 4, 2)]


@pytest.mark.parametrize("architecture", ["osnet", "rga_c_resnet50"])
def test_a_network_without_a_spatial_part_is_refused(architecture: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "network.safetensors", architecture=architecture)
    with pytest.raises(VisualizeError, match=f"{architecture} has no spatial attention"):
        attention_maps(load_checkpoint(tmp_path / "network.safetensors"), [person(1)])


def test_the_command_writes_a_row_for_each_image(network_path: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for seed, path in enumerate(paths):
        person(seed).save(path)
    visualize.main(paths[:1], network_path, tmp_path / "a.png")
    visualize.main(paths, network_path, tmp_path / "b.png", common_scale=True)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as two:
        assert one.width == two.width
        assert two.height - one.height > 256


def test_unusable_input_ends_in_a_clear_error(network_path: Path, tmp_path: Path) -> None:
    person(1).save(tmp_path / "crop.png")
    (tmp_path / "text.png").write_text("no image")
    out = tmp_path / "out.png"
    for image, checkpoint, reason in [
        (tmp_path / "text.png", network_path, "text.png cannot be read as an image"),
        (tmp_path / "absent.png", network_path, "absent.png cannot be read as an image"),
        (tmp_path / "crop.png", tmp_path / "text.png", "text.png"),
        (tmp_path / "crop.png", tmp_path / "absent.safetensors", "cannot be read"),
    ]:
        with pytest.raises(SystemExit, match=f"visualize: .*{reason}"):
            visualize.main([image], checkpoint, out)
    assert not out.exists()
    with pytest.raises(SystemExit, match="visualize: "):
        visualize.main([tmp_path / "crop.png"], network_path, tmp_path / "crop.png" / "out.png")
    options = ["--checkpoint", network_path, tmp_path / "text.png", "--out", out]
    answer = run_command("visualize", *options, folder=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith("visualize: ")
    assert len(answer.stderr.splitlines()) == 1
