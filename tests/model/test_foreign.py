"""Embeddings of foreign networks agree with torch, on every device and in training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foreign_networks import HEIGHT, SIZE, WIDTH, Small, import_small, save_ir, save_small_onnx
from live_server import person
from model.checkpoint import Checkpoint, load_checkpoint
from model.embedder import Embedder, normalise_rows
from model.errors import CheckpointError
from model.preprocess import Color
from model.runtime import DEVICES, Floats, cpu_has_bf16
from training.reports.attention_maps import attention_maps
from training.weights.foreign import open_network
from training.weights.initial import find_initial
from training.weights.teachers import open_teacher

CROPS = [person(seed) for seed in range(5)]
Options = tuple[str, float, Color, Color]
OPTIONS: dict[str, Options] = {
    "rgb": ("rgb", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "bgr": ("bgr", 1.0, (104.0, 117.0, 123.0), (50.0, 60.0, 70.0)),
}


def embed_plainly(channels: str, scale: float, mean: Color, std: Color) -> Floats:
    """Embed CROPS by the small network in torch, with the preprocessing written out."""
    resized = [np.asarray(crop.resize((WIDTH, HEIGHT), 2), np.float64) for crop in CROPS]
    pixels_NHWC = np.stack(resized)[..., :: 1 if channels == "rgb" else -1]
    normalised = torch.from_numpy(((pixels_NHWC / scale - mean) / std).astype(np.float32))
    with torch.inference_mode():
        return normalise_rows(Small()(normalised.permute(0, 3, 1, 2)).numpy())


SAVED: dict[str, Callable[[Path], Path]] = {
    "ir": lambda folder: save_ir(folder / "small.xml"),
    "ir, a batch of any size": lambda folder: save_ir(folder / "small.xml", batch=-1),
    "ir, channels last": lambda folder: save_ir(folder / "small.xml", is_nhwc=True),
    "onnx": lambda folder: save_small_onnx(folder / "small.onnx"),
    "onnx, a batch of one": lambda folder: save_small_onnx(folder / "small.onnx", batch=1),
}


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("options", OPTIONS)
def test_embeddings_are_those_of_the_network_in_torch(saved: str, options: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(import_small(SAVED[saved](tmp_path), *OPTIONS[options]))
    expected = embed_plainly(*OPTIONS[options])
    found = Embedder(checkpoint).embed(CROPS)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    other = embed_plainly("bgr" if options == "rgb" else "rgb", *OPTIONS[options][1:])
    assert np.abs(found - other).max() > 1e-3
    card = checkpoint.card
    assert (card.architecture, card.channels, card.embedding_size) == ("openvino", options, SIZE)
    assert card.num_identities == 0
    assert card.recipe.startswith("small.")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the small network; its .xml and .bin are beside it."""
    return import_small(save_ir(tmp_path_factory.mktemp("foreign") / "small.xml"))


@pytest.fixture(scope="module")
def checkpoint(small: Path) -> Checkpoint:
    return load_checkpoint(small)


@pytest.mark.parametrize("device", DEVICES)
def test_openvino_runs_a_foreign_network_in_fp32_on_any_device(checkpoint: Checkpoint, device: str) -> None:
    assert Embedder(checkpoint, device).runtime == "openvino-fp32"


def test_bf16_is_used_if_asked_for_and_if_the_processor_has_bf16(checkpoint: Checkpoint) -> None:
    embedder = Embedder(checkpoint, precision="bf16")
    assert embedder.runtime == ("openvino-bf16" if cpu_has_bf16() else "openvino-fp32")
    cosines = (embedder.embed(CROPS) * Embedder(checkpoint).embed(CROPS)).sum(axis=1)
    assert cosines.min() > 0.999


def test_two_embedders_of_one_checkpoint_make_the_same_embeddings(checkpoint: Checkpoint) -> None:
    first, second = Embedder(checkpoint), Embedder(checkpoint)
    np.testing.assert_array_equal(first.embed(CROPS), second.embed(CROPS))


def test_training_embeds_with_a_foreign_network_and_refuses_to_train_it(
    small: Path, checkpoint: Checkpoint
) -> None:
    embed = open_network(small, mean=0, scale=1, is_bgr=False)
    np.testing.assert_array_equal(embed(CROPS), Embedder(checkpoint).embed(CROPS))
    cpu = torch.device("cpu")
    uses: list[Callable[[], object]] = [
        lambda: find_initial(str(small), "tiny"),
        lambda: open_teacher(small, checkpoint.preprocess, cpu, mean=0, scale=1, is_bgr=False),
        lambda: attention_maps(checkpoint, CROPS),
    ]
    for use in uses:
        with pytest.raises(CheckpointError, match=r" \(small\.xml .*is a foreign network"):
            use()
