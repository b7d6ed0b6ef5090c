"""Count how often a stranger scores as high, on the people of a data set, and store it beside a checkpoint.

Usage: ``python training/calibrate.py --checkpoint FILE --data DIR --split train --out FILE.json``. The file
holds the field `verification` of checkpoints whose cards are older than the field, by model version. train.py
writes these rates into the card itself, from the test split.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from typer import Option

from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from model.files import write_atomically
from training.data.datasets import DatasetError
from training.data.readers import Data, read_dataset
from training.engine.embedding import embed_samples
from training.metrics.verification import count_strangers
from training.options.command import command, exit_on_error


@dataclass(frozen=True)
class CalibrateOptions:
    """Options of calibrate.py."""

    checkpoint: Annotated[Path, Option(help="A .safetensors checkpoint.")]
    data: Data
    out: Annotated[Path, Option(help="The JSON file to change; it must name the checkpoint's version.")]
    split: Annotated[
        str,
        Option(help="train: every crop is searched among all of them. test: query among gallery."),
    ] = "test"
    device: Annotated[str, Option(help="auto, cpu, cuda or torch-cpu.")] = "auto"


def calibrate(options: CalibrateOptions) -> None:
    """Count the rates of strangers on the people of a split, and write them into a file of verifications."""
    if options.split not in ("train", "test"):
        raise typer.BadParameter("--split is train or test")
    with exit_on_error("calibrate", OSError, ValueError):
        known: dict[str, dict[str, Any]] = json.loads(options.out.read_text(encoding="utf-8"))
        checkpoint = load_checkpoint(options.checkpoint)
        if checkpoint.version not in known:
            raise ValueError(f"{options.out} has no entry for {checkpoint.version}: add its thresholds first")
        is_train = options.split == "train"
        dataset = read_dataset(options.data, needs=("train",) if is_train else ("query", "gallery"))
        splits = (dataset.train,) if is_train else (dataset.query, dataset.gallery)
        embedder = Embedder(checkpoint, options.device)
        embedded = [embed_samples(samples, embedder.embed, "embedding") for samples in splits]
        pids = [np.array([sample.pid for sample in samples]) for samples in splits]
        rates = count_strangers(embedded[0], embedded[-1], pids[0], pids[-1])
        if rates is None:
            raise DatasetError(f"the {options.split} split of {dataset.name} has too few people or crops")
        data = f"{dataset.name}, its {options.split} split"
        known[checkpoint.version]["strangers"] = rates.to_dict() | {"data": data}
        write_atomically(options.out, (json.dumps(known, indent=2) + "\n").encode())
    print(f"{rates.num_identities} people, {rates.num_pairs:,} pairs; the rarest rate is {rates.rates[-1]:g}")


main = command(CalibrateOptions, calibrate)

if __name__ == "__main__":
    typer.run(main)
