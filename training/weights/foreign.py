"""Networks to embed with: a checkpoint of ours, or a foreign one in ONNX or OpenVINO IR."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.checkpoint import load_checkpoint
from model.embedder import Embedder, normalise_rows
from model.interop.graphs import openvino_core
from model.preprocess import Preprocess

Floats = NDArray[np.float32]
EmbedImages = Callable[[Sequence[Image.Image]], Floats]


class EmbeddingsError(Exception):
    """A network or a file of embeddings cannot be used; the message says why."""


def open_network(path: str | Path, *, mean: float, scale: float, is_bgr: bool) -> EmbedImages:
    """Return a function from images to L2-normalised embeddings, float32 (N, D).

    A checkpoint of ours has its own preprocessing, and ignores the other arguments. A foreign network reads
    (pixels - mean) / scale, with pixels 0-255, at the height and width of its input.

    Args:
        path: a checkpoint (.safetensors), .onnx or OpenVINO .xml.
        mean: subtracted from the pixels.
        scale: divides the pixels after the subtraction.
        is_bgr: whether the channel order is BGR instead of RGB.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        EmbeddingsError: the file is not a network with one image input (N, 3, H, W).
    """
    if Path(path).suffix == ".safetensors":
        return Embedder(load_checkpoint(path)).embed
    compiled, preprocess = compile_graph(path)

    def embed(images: Sequence[Image.Image]) -> Floats:
        pixels = (preprocess(images).numpy() - mean) / scale
        channels = np.ascontiguousarray(pixels[:, ::-1] if is_bgr else pixels)
        return normalise_rows(compiled([channels])[0].reshape(len(images), -1))

    return embed


def compile_graph(path: str | Path, *, precision: str | None = None) -> tuple[Any, Preprocess]:
    """Compile a foreign network for the CPU, and return it with its preprocessing.

    The preprocessing resizes crops to the network's input and leaves pixels as RGB from 0 to 255.

    Args:
        path: .onnx or OpenVINO .xml.
        precision: OpenVINO's name of a precision, such as ``f32``; by default OpenVINO chooses.

    Raises:
        EmbeddingsError: the file is not a network with one image input (N, 3, H, W).
    """
    try:
        graph = openvino_core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]  # the lines before name places in OpenVINO's source
        raise EmbeddingsError(f"{path} is no ONNX or OpenVINO IR network: {reason}") from error
    shape = graph.inputs[0].partial_shape
    if (
        len(graph.inputs) != 1
        or shape.rank.get_length() != 4
        or not (shape[2].is_static and shape[3].is_static)
    ):
        raise EmbeddingsError(f"{path} takes {shape}; one input (N, 3, height, width) is needed")
    preprocess = Preprocess(shape[2].get_length(), shape[3].get_length(), (0, 0, 0), (1 / 255,) * 3)
    graph.reshape({graph.inputs[0].any_name: [-1, 3, preprocess.height, preprocess.width]})
    options = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    return openvino_core().compile_model(graph, "CPU", options), preprocess
