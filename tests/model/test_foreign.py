"""Foreign networks: their embeddings agree with torch, and a network that cannot be served is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from foreign_networks import (
    HEIGHT,
    SIZE,
    WIDTH,
    Small,
    make_card,
    save_deadly,
    save_ir,
    save_onnx,
    save_small_onnx,
)
from live_server import person
from model.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, load_checkpoint, save_foreign
from model.embedder import Embedder, normalise_rows
from model.errors import CheckpointError
from model.interop.foreign import import_foreign
from model.interop.graphs import MAX_GRAPH_BYTES
from model.interop.trial import try_apart, try_out
from model.preprocess import Color
from model.runtime import DEVICES, Floats, cpu_has_bf16
from training.reports.attention_maps import attention_maps
from training.weights.foreign import open_network
from training.weights.initial import find_initial
from training.weights.teachers import open_teacher

ZERO: Color = (0.0, 0.0, 0.0)
ONE: Color = (1.0, 1.0, 1.0)
CROPS = [person(seed) for seed in range(5)]
Options = tuple[str, float, Color, Color]
OPTIONS: dict[str, Options] = {
    "rgb": ("rgb", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "bgr": ("bgr", 1.0, (104.0, 117.0, 123.0), (50.0, 60.0, 70.0)),
}


def bring(
    path: Path, channels: str = "rgb", scale: float = 255.0, mean: Color = ZERO, std: Color = ONE
) -> Path:
    out = path.with_name("out.safetensors")
    import_foreign(path, out, height=HEIGHT, width=WIDTH, mean=mean, std=std, channels=channels, scale=scale)
    return out


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
    checkpoint = load_checkpoint(bring(SAVED[saved](tmp_path), *OPTIONS[options]))
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
    return bring(save_ir(tmp_path_factory.mktemp("foreign") / "small.xml"))


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


POOL = helper.make_node("GlobalAveragePool", ["images"], ["pooled"])
FLATTEN = helper.make_node("Flatten", ["images"], ["out"])
FLAT = helper.make_node("Flatten", ["pooled"], ["out"])


def save_branches(path: Path) -> Path:
    """Write a graph with a branch that depends on the image."""

    def branch(kind: str) -> object:
        out = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["pooled"], ["branch"])], kind, [], [out])

    nodes = [
        POOL,
        helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "half"], ["is_light"]),
        helper.make_node("If", ["is_light"], ["out"], then_branch=branch("Exp"), else_branch=branch("Neg")),
    ]
    return save_onnx(path, nodes, constants={"half": np.float32(0.5)})


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "maps": (
        lambda path: save_onnx(path, [helper.make_node("Relu", ["images"], ["out"])]),
        r"the output of the network is \[1,3,64,32\]; an embedding",
    ),
    "not finite": (
        lambda path: save_onnx(path, [POOL, helper.make_node("Log", ["pooled"], ["out"])]),
        "on trial, the embedding of a black image has length nan",
    ),
    "constant": (
        lambda path: save_onnx(
            path,
            [
                POOL,
                helper.make_node("Mul", ["pooled", "none"], ["zero"]),
                helper.make_node("Exp", ["zero"], ["out"]),
            ],
            constants={"none": np.float32(0)},
        ),
        "the same embedding of every image",
    ),
    "two inputs": (
        lambda path: save_onnx(
            path, [helper.make_node("Add", ["images", "more"], ["out"])], inputs=("images", "more")
        ),
        r"the network takes 2 inputs \(images, more\)",
    ),
    "two outputs": (
        lambda path: save_onnx(path, [POOL, FLAT], outputs=("pooled", "out")),
        "the network has 2 outputs",
    ),
    "a batch of two": (lambda path: save_small_onnx(path, batch=2), "the network takes 2 images at once"),
    "another size": (
        lambda path: save_onnx(path, [POOL, FLAT], shape=(1, 3, 48, 24)),
        "the network takes images of 48 x 24, not of 64 x 32",
    ),
    "another size, channels last": (
        lambda path: save_onnx(
            path, [helper.make_node("Flatten", ["images"], ["out"])], shape=(1, 48, 24, 3)
        ),
        "the network takes images of 48 x 24, not of 64 x 32",
    ),
    "one channel": (
        lambda path: save_onnx(path, [POOL, FLAT], shape=(1, 1, 64, 32)),
        "one input .* is needed",
    ),
    "no image": (
        lambda path: save_onnx(path, [helper.make_node("Relu", ["images"], ["out"])], shape=(1, 6144)),
        r"the network takes \[1,6144\] of f32; one input",
    ),
    "whole numbers": (
        lambda path: save_onnx(
            path,
            [
                helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
                helper.make_node("Flatten", ["cast"], ["out"]),
            ],
            kind=TensorProto.UINT8,
        ),
        "of u8; one input .* of floating-point",
    ),
    "a branch": (save_branches, "the layer If, which is refused"),
    "a size that depends": (
        lambda path: save_onnx(
            path,
            [
                helper.make_node("NonZero", ["images"], ["places"]),
                helper.make_node("Cast", ["places"], ["cast"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", ["cast"], ["mean"], axes=[1]),
                helper.make_node("Reshape", ["mean", "shape"], ["out"]),
            ],
            constants={"shape": np.array([1, 4])},
        ),
        "the size of a layer .* depends on the image",
    ),
    "a huge layer": (
        lambda path: save_onnx(
            path,
            [
                POOL,
                helper.make_node("Expand", ["pooled", "shape"], ["huge"]),
                helper.make_node("GlobalAveragePool", ["huge"], ["out"]),
            ],
            constants={"shape": np.array([1, 3, 1 << 14, 1 << 14])},
        ),
        r"is too large: \[1,3,16384,16384\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_served_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    save, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message):
        bring(save(tmp_path / "foreign.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]


def test_a_file_that_is_absent_torn_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.onnx cannot be read: No such file"):
        bring(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match="no ONNX or OpenVINO IR network"):
        bring(tmp_path / "text.onnx")
    whole = save_ir(tmp_path / "small.xml")
    weights = whole.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"small\.xml is no ONNX or OpenVINO IR network"):
        bring(whole)
    with weights.open("wb") as file:
        file.truncate(MAX_CHECKPOINT_BYTES)  # sparse: takes no room
    with pytest.raises(CheckpointError, match=r"small\.xml has 1,073,7.* bytes; at most"):
        bring(whole)


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    path = save_ir(tmp_path / "small.xml")
    content = bring(path).read_bytes()
    with pytest.raises(CheckpointError, match="is there already"):
        bring(path)
    assert (tmp_path / "out.safetensors").read_bytes() == content


BOMB = b'<?xml version="1.0"?>\n<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n'


OTHER_BEGINNING = "the graph does not begin as OpenVINO writes an IR"
UNREADABLE = "the graph cannot be read"


def unfit_parts(folder: Path) -> dict[str, tuple[bytes, bytes, str]]:
    """Return graphs and weights that no import writes, each with the error message."""
    graph, weights = (folder / "small.xml").read_bytes(), (folder / "small.bin").read_bytes()
    declaration, _, rest = graph.partition(b"\n")
    far = graph.replace(b'offset="0"', b'offset="18446744073709551608"')
    return {
        "empty": (b"", weights, OTHER_BEGINNING),
        "onnx": (save_small_onnx(folder / "small.onnx").read_bytes(), b"", OTHER_BEGINNING),
        "bomb": (BOMB + rest, weights, OTHER_BEGINNING),
        "bomb inside": (declaration + b"\n" + rest.replace(b"</net>", BOMB + b"</net>"), weights, UNREADABLE),
        "torn": (graph[: len(graph) // 2], weights, UNREADABLE),
        "garbage": (graph[:200] + bytes(range(256)), weights, UNREADABLE),
        "not UTF-8": (graph.replace(b'type="ReLU"', b'type="\xff"'), weights, UNREADABLE),
        "no weights": (graph, b"", UNREADABLE),
        "torn weights": (graph, weights[:-1], UNREADABLE),
        "far weights": (far, weights, UNREADABLE),
        "unknown layer": (graph.replace(b'type="ReLU"', b'type="Rocket"'), weights, UNREADABLE),
        "huge": (graph + b" " * MAX_GRAPH_BYTES, weights, "bytes; at most 33,554,432"),
    }


def test_a_hostile_or_torn_graph_is_refused_without_a_crash(small: Path, tmp_path: Path) -> None:
    for name, (graph, weights, message) in unfit_parts(small.parent).items():
        path = tmp_path / f"{name}.safetensors"
        save_foreign(path, graph, weights, make_card())
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 128}, r"the input of the graph is \[1,3,64,32\] of f32; the card says \[1,3,128,32\]"),
        ({"embedding_size": 13}, r"the output of the graph is \[1,12\] of f32; the card says \[1,13\]"),
        ({"channels": "cmyk"}, r"channels must match pattern '\^\(rgb\|bgr\)\$'"),
        ({"channels": 3}, "channels must be a valid string"),
        ({"num_identities": -1}, "num_identities must be greater than or equal to 0"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be three numbers above zero"),
    ],
)
def test_a_card_that_does_not_fit_the_graph_is_refused(
    small: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    graph, weights = ((small.parent / f"small{suffix}").read_bytes() for suffix in (".xml", ".bin"))
    save_foreign(tmp_path / "a.safetensors", graph, weights, make_card(**changes))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.safetensors")


def test_tensors_of_another_kind_and_extra_tensors_are_refused(tmp_path: Path) -> None:
    metadata = {"card": json.dumps(make_card().to_dict())}
    some = torch.zeros(8, dtype=torch.uint8)
    path = tmp_path / "a.safetensors"
    for tensors, message in [
        ({"weights": some}, "graph must be a tensor of bytes"),
        ({"graph": some, "weights": torch.zeros(8)}, "weights must be a tensor of bytes"),
        ({"graph": torch.zeros(2, 4, dtype=torch.uint8), "weights": some}, "graph must be a tensor of bytes"),
        ({"graph": some, "weights": some.clone(), "guest": some.clone()}, "1 tensors beside"),
    ]:
        save_file(tensors, path, metadata)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)


def test_a_network_that_crashes_the_trial_is_refused(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_deadly(path)
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors ended the process that tried it, by signal \d+"
    ):
        try_apart(path)
    graph, weights = ((small.parent / f"small{suffix}").read_bytes() for suffix in (".xml", ".bin"))
    save_foreign(path, graph, weights, make_card(width=64))
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be used: the input of the graph is"):
        try_apart(path)


def test_a_network_of_ours_is_tried_out_too(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    embedder = Embedder(checkpoint, "torch-cpu", "fp32")
    try_out(embedder)
    with torch.no_grad():
        checkpoint.network.neck.weight.zero_()
        checkpoint.network.neck.bias.fill_(1)
    with pytest.raises(CheckpointError, match="the same embedding of every image"):
        try_out(embedder)
