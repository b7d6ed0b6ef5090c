"""Embed a data set with any network (checkpoint, ONNX or OpenVINO IR), for distillation.

Usage: ``python training/embed.py --network FILE --data DIR --out FILE.npz``. The file holds ``paths``
(relative to the data set's folder) and ``embeddings``, float32 (N, D), L2-normalised.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from typer import Option

from training.data.readers import Data, read_dataset
from training.engine.embedding import embed_samples
from training.options.command import command, exit_on_error
from training.weights.foreign import open_network


@dataclass(frozen=True)
class EmbedOptions:
    """Options of embed.py."""

    network: Annotated[Path, Option(help="Checkpoint (.safetensors), .onnx or OpenVINO .xml.")]
    data: Data
    out: Annotated[Path, Option(help="The .npz to write.")]
    split: Annotated[str, Option(help="train, query or gallery.")] = "train"
    channels: Annotated[str, Option(help="Channel order of a foreign network: bgr or rgb.")] = "bgr"
    mean: Annotated[float, Option(help="Subtracted from pixels 0-255 for a foreign network.")] = 0.0
    scale: Annotated[float, Option(help="Divides the pixels after --mean.")] = 1.0
    flip: Annotated[bool, Option(help="Average each crop with its mirror image.")] = False


def embed(options: EmbedOptions) -> None:
    """Embed a data set into an .npz for train.py --teacher-embeddings."""
    split, out = options.split, options.out
    if split not in ("train", "query", "gallery") or options.channels not in ("bgr", "rgb"):
        raise typer.BadParameter("--split is train, query or gallery; --channels is bgr or rgb")
    with exit_on_error("embed"):
        dataset = read_dataset(options.data, needs=(split,))
        is_bgr = options.channels == "bgr"
        network = open_network(options.network, mean=options.mean, scale=options.scale, is_bgr=is_bgr)
        samples = dataset.split(split)
        embeddings = embed_samples(samples, network, f"embedding {split}", with_flip=options.flip)
    paths: Any = np.array([dataset.relative_path(sample) for sample in samples])
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, paths=paths, embeddings=embeddings)
    print(f"{len(samples):,} embeddings of {embeddings.shape[1]} dimensions in {out}")


main = command(EmbedOptions, embed)

if __name__ == "__main__":
    typer.run(main)
