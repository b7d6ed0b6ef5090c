"""Embed a data set with any network - ours, ONNX or OpenVINO IR - into an .npz to distil from.

Usage: ``python training/embed.py --network FILE --data DIR --out FILE.npz``. The file holds ``paths``
(relative to the data set's folder) and ``embeddings``, float32 (N, D), L2-normalised.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from model.checkpoint import load_checkpoint
from model.embedder import Embedder, normalise_rows
from model.errors import ModelError
from model.graphs import openvino_core
from model.preprocess import Preprocess
from training import distributed
from training.data.datasets import DatasetError, ReidDataset, Sample, open_crop
from training.data.readers import Data, read_dataset

BATCH_SIZE = 16
Floats = NDArray[np.float32]
EmbedImages = Callable[[Sequence[Image.Image]], Floats]


class EmbeddingsError(Exception):
    """A network or a file of embeddings cannot be used; the message says why."""


def open_network(path: Path, *, mean: float, scale: float, is_bgr: bool) -> EmbedImages:
    """Return a function from images to L2-normalised embeddings (N, D).

    A checkpoint of ours brings its own preprocessing. A foreign network gets (pixels 0-255 - mean) / scale,
    in RGB or BGR, at the size its input names.

    Raises:
        EmbeddingsError: not a network with one image input (N, 3, H, W).
    """
    if path.suffix == ".safetensors":
        return Embedder(load_checkpoint(path)).embed
    compiled, preprocess = compile_graph(path)

    def embed(images: Sequence[Image.Image]) -> Floats:
        pixels = (preprocess(images).numpy() - mean) / scale
        channels = np.ascontiguousarray(pixels[:, ::-1] if is_bgr else pixels)
        return normalise_rows(compiled([channels])[0].reshape(len(images), -1))

    return embed


def compile_graph(path: Path, *, precision: str | None = None) -> tuple[Any, Preprocess]:
    """Return a foreign network compiled for the CPU, and the preprocessing to RGB 0-255 of its input's size.

    ``precision`` is OpenVINO's name of one, such as ``f32``; none is the fast one of the processor.

    Raises:
        EmbeddingsError: not a network with one image input (N, 3, H, W).
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


def embed_samples(
    samples: Sequence[Sample], embed: EmbedImages, label: str, *, with_flip: bool = False
) -> Floats:
    """Embed the crops in their order, with a progress bar: float32 (N, D).

    ``with_flip`` averages a crop and its mirror image, and normalises again. Several processes share
    the work.
    """
    rows = {}
    starts = distributed.share(range(0, len(samples), BATCH_SIZE))
    console = Console(stderr=True, quiet=distributed.rank() != 0)
    for start in track(starts, description=label, console=console):
        images = [open_crop(sample.path) for sample in samples[start : start + BATCH_SIZE]]
        embeddings = embed(images)
        if with_flip:
            mirrored = embed([image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images])
            embeddings = normalise_rows(embeddings + mirrored)
        rows[start] = embeddings
    return np.concatenate(distributed.collect(rows))


def load_teacher_embeddings(path: Path, dataset: ReidDataset) -> Tensor:
    """Return a teacher's embeddings of the training crops, in their order: float32 (N, T).

    Raises:
        EmbeddingsError: the file is unreadable, or lacks a training crop, or holds what is not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = dict(zip(arrays["paths"].tolist(), arrays["embeddings"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise EmbeddingsError(f"{path} is no file of embeddings from training/embed.py: {error}") from error
    names = [dataset.relative_path(sample) for sample in dataset.train]
    if missing := [name for name in names if name not in rows]:
        raise EmbeddingsError(
            f"{path} lacks {len(missing)} of {len(names)} training crops, such as {missing[0]}"
        )
    embeddings = torch.from_numpy(np.stack([rows[name] for name in names]).astype(np.float32))
    if not torch.isfinite(embeddings).all():
        raise EmbeddingsError(f"{path} holds embeddings that are not finite")
    return embeddings


def main(
    network: Annotated[Path, typer.Option(help="Checkpoint (.safetensors), .onnx or OpenVINO .xml.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The .npz to write.")],
    split: Annotated[str, typer.Option(help="train, query or gallery.")] = "train",
    channels: Annotated[str, typer.Option(help="Channel order of a foreign network: bgr or rgb.")] = "bgr",
    mean: Annotated[float, typer.Option(help="Subtracted from 0-255 for a foreign network.")] = 0.0,
    scale: Annotated[float, typer.Option(help="Divided by, after the mean.")] = 1.0,
    flip: Annotated[bool, typer.Option(help="Average each crop with its mirror image.")] = False,
) -> None:
    """Embed a data set into an .npz that train.py --teacher-embeddings takes."""
    if split not in ("train", "query", "gallery") or channels not in ("bgr", "rgb"):
        raise typer.BadParameter("--split is train, query or gallery; --channels is bgr or rgb")
    try:
        dataset = read_dataset(data, needs=(split,))
        embed = open_network(network, mean=mean, scale=scale, is_bgr=channels == "bgr")
        samples = dataset.split(split)
        embeddings = embed_samples(samples, embed, f"embedding {split}", with_flip=flip)
    except (DatasetError, EmbeddingsError, ModelError) as error:
        raise SystemExit(f"embed: {error}") from error
    paths: Any = np.array([dataset.relative_path(sample) for sample in samples])
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, paths=paths, embeddings=embeddings)
    print(f"{len(samples):,} embeddings of {embeddings.shape[1]} dimensions in {out}")


if __name__ == "__main__":
    typer.run(main)
