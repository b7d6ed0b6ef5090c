"""Import of ONNX and OpenVINO IR networks as checkpoints, which OpenVINO runs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino
from openvino import Layout, PartialShape, opset8
from openvino.preprocess import PrePostProcessor

from model.card import FOREIGN, Card
from model.card_text import to_text
from model.checkpoint import MAX_CHECKPOINT_BYTES, load_checkpoint, save_foreign
from model.embedder import Embedder
from model.errors import CheckpointError
from model.files import describe_file, write_atomically
from model.interop.graphs import check_layers, openvino_core, reason
from model.interop.trial import try_out
from model.preprocess import Color


def import_foreign(
    path: str | Path,
    out: str | Path,
    *,
    height: int,
    width: int,
    mean: Color,
    std: Color,
    channels: str = "rgb",
    scale: float = 255.0,
) -> str:
    """Import an ONNX or OpenVINO IR network as a checkpoint.

    The network embeds a few test images before ``out`` is written.

    Args:
        path: an .onnx file, or an .xml file with its .bin beside it.
        out: the checkpoint to write; the file must not exist.
        height: of the images that the network reads, in pixels.
        width: of the images that the network reads, in pixels.
        mean: of each channel, in the order of ``channels``. The network reads
            (pixels 0-255 / ``scale`` - ``mean``) / ``std``.
        std: standard deviation of each channel, in the order of ``channels``.
        channels: order in which the network reads colours, ``rgb`` or ``bgr``.
        scale: number by which pixels are divided before ``mean`` is subtracted.

    Returns:
        The version of the checkpoint, 12 hex digits.

    Raises:
        CheckpointError: the file cannot be read as such a network, the network has other inputs or outputs
            than one image and one embedding, a test image fails, or ``out`` exists or cannot be written.
    """
    path, out = Path(path), Path(out)
    if out.exists():
        raise CheckpointError(f"{out} is there already: remove it, or give another --out")
    graph = _read(path)
    try:
        fixed = _fix_output(_fix_input(graph, height, width))
        check_layers(fixed)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    card = Card(
        architecture=FOREIGN,
        height=height,
        width=width,
        embedding_size=fixed.output().shape[1],
        num_identities=0,
        mean=_in_rgb(mean, scale, channels),
        std=_in_rgb(std, scale, channels),
        channels=channels,
        recipe=to_text(describe_file(path)),
    )
    try:
        with TemporaryDirectory() as folder:
            made = Path(folder) / out.name
            version = _save(made, fixed, card)
            try_out(Embedder(load_checkpoint(made)))
            write_atomically(out, made.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error.strerror or error}") from error
    return version


def _read(path: Path) -> openvino.Model:
    try:
        parts = [part for part in {path, path.with_suffix(".bin")} if part.exists()]
        size = sum(part.stat().st_size for part in parts)
        if any(not (part.is_file() or part.is_dir()) for part in parts):
            raise CheckpointError(f"{path} cannot be read: it is a device or a pipe")  # which may have no end
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if size > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes; at most {MAX_CHECKPOINT_BYTES:,} are read")
    try:
        return openvino_core().read_model(path)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no ONNX or OpenVINO IR network: {reason(error)}") from error


def _fix_input(graph: openvino.Model, height: int, width: int) -> openvino.Model:
    """Let a graph with one input and one output take an image, float32 (1, 3, H, W).

    The input of the graph may be (N, 3, H, W) or (N, H, W, 3), in any floating-point type.
    """
    if len(graph.inputs) != 1:
        names = ", ".join(port.any_name for port in graph.inputs)
        raise CheckpointError(
            f"the network takes {len(graph.inputs)} inputs ({names}); export it with one input, the image"
        )
    if len(graph.outputs) != 1:
        raise CheckpointError(
            f"the network has {len(graph.outputs)} outputs; export it with one output, the embedding"
        )
    shape, kind = graph.input().partial_shape, graph.input().element_type
    sizes = {"NCHW": [1, 3, height, width], "NHWC": [1, height, width, 3]}
    fitting = [layout for layout, wanted in sizes.items() if shape.compatible(PartialShape(wanted))]
    if not fitting or shape.rank.is_dynamic or not kind.is_real():
        raise CheckpointError(_misfit(shape, kind, height, width))
    layout = fitting[0]
    try:
        graph.reshape(PartialShape(sizes[layout]))
        steps = PrePostProcessor(graph)
        steps.input().tensor().set_element_type(openvino.Type.f32).set_layout(Layout("NCHW"))
        steps.input().model().set_layout(Layout(layout))
        steps.output().tensor().set_element_type(openvino.Type.f32)
        return steps.build()
    except RuntimeError as error:
        raise CheckpointError(
            f"the network cannot take one image of {height} x {width} (height x width): {reason(error)}"
        ) from error


def _misfit(shape: PartialShape, kind: openvino.Type, height: int, width: int) -> str:
    """Say why a network cannot take an image of height x width pixels."""
    wanted = "one input (N, 3, H, W) or (N, H, W, 3) of floating-point numbers is needed"
    if shape.rank.is_dynamic or shape.rank.get_length() != 4 or not kind.is_real():
        return f"the network takes {shape} of {kind.to_string()}; {wanted}"
    if shape[0].is_static and shape[0].get_length() != 1:
        return f"the network takes {shape[0]} images at once; export it with a batch size of 1"
    for channel, first in ((1, 2), (3, 1)):
        if shape[channel] == openvino.Dimension(3):
            return (
                f"the network takes images of {shape[first]} x {shape[first + 1]}, not of {height} x {width}"
            )
    return f"the network takes {shape}; {wanted}"


def _fix_output(graph: openvino.Model) -> openvino.Model:
    """Give the output of a graph with one output the shape of an embedding, (1, D)."""
    shape = graph.output().partial_shape
    sizes = list(shape.to_shape()) if shape.is_static else []
    if len(sizes) not in (2, 4) or sizes[0] != 1 or max(sizes) != np.prod(sizes):
        raise CheckpointError(
            f"the output of the network is {shape}; an embedding (1, D) or (1, D, 1, 1) is needed"
        )
    answer = graph.get_results()[0].input_value(0)
    flat = opset8.reshape(answer, np.array([1, -1]), special_zero=False)
    return openvino.Model(flat.outputs(), graph.get_parameters(), graph.friendly_name)


def _in_rgb(values: Color, scale: float, channels: str) -> Color:
    """Convert a mean or a standard deviation for a card, which holds both in RGB for pixels from 0 to 1.

    Args:
        values: one for each channel, for pixels 0-255 divided by ``scale``.
        scale: the number that pixels were divided by.
        channels: order of ``values``, ``rgb`` or ``bgr``.

    >>> _in_rgb((1.0, 2.0, 3.0), 510.0, "bgr")
    (6.0, 4.0, 2.0)
    """
    first, second, third = (value * scale / 255 for value in values)
    return (first, second, third) if channels == "rgb" else (third, second, first)


def _save(path: Path, graph: openvino.Model, card: Card) -> str:
    written = path.with_suffix(".xml")
    openvino.save_model(graph, written, compress_to_fp16=False)
    return save_foreign(path, written.read_bytes(), written.with_suffix(".bin").read_bytes(), card)
