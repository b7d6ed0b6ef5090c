"""Checkpoints of foreign networks: a damaged or hostile file is refused without a crash."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foreign_networks import import_small, make_card, save_deadly, save_ir, save_small_onnx
from model.checkpoint import load_checkpoint, save_foreign
from model.embedder import Embedder
from model.errors import CheckpointError
from model.interop.graphs import MAX_GRAPH_BYTES
from model.interop.trial import try_apart, try_out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the small network; its .xml and .bin are beside it."""
    return import_small(save_ir(tmp_path_factory.mktemp("foreign") / "small.xml"))


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
