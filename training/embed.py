"""Embed a data set with any network - ours, ONNX or OpenVINO IR - into an .npz to distil from.

Usage: ``python training/embed.py --network FILE --data DIR --out FILE.npz``. The file holds ``paths``
(relative to the data set's folder) and ``embeddings``, float32 (N, D), L2-normalised.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from model.errors import ModelError
from training.data.datasets import DatasetError
from training.data.readers import Data, read_dataset
from training.engine.embedding import embed_samples
from training.weights.foreign import EmbeddingsError, open_network


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
