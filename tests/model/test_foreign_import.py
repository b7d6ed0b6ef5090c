"""Import of foreign networks: a network that cannot be served is refused, with the reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from foreign_networks import import_small, save_ir, save_onnx, save_small_onnx
from model.checkpoint import MAX_CHECKPOINT_BYTES
from model.errors import CheckpointError

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
        import_small(save(tmp_path / "foreign.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]


def test_a_file_that_is_absent_torn_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.onnx cannot be read: No such file"):
        import_small(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match="no ONNX or OpenVINO IR network"):
        import_small(tmp_path / "text.onnx")
    whole = save_ir(tmp_path / "small.xml")
    weights = whole.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"small\.xml is no ONNX or OpenVINO IR network"):
        import_small(whole)
    with weights.open("wb") as file:
        file.truncate(MAX_CHECKPOINT_BYTES)  # sparse: takes no room
    with pytest.raises(CheckpointError, match=r"small\.xml has 1,073,7.* bytes; at most"):
        import_small(whole)


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    path = save_ir(tmp_path / "small.xml")
    content = import_small(path).read_bytes()
    with pytest.raises(CheckpointError, match="is there already"):
        import_small(path)
    assert (tmp_path / "out.safetensors").read_bytes() == content
