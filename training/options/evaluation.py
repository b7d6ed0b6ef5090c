"""The options of evaluate.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from training.data.readers import READERS


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of evaluate.py."""

    checkpoint: Annotated[list[Path], Option(help="A .safetensors checkpoint; may repeat.")]
    data: Annotated[
        list[str],
        Option(
            metavar="[KIND:]PATH",
            help=f"A data set to evaluate on, by itself; may repeat. KIND is {', '.join(READERS)}.",
        ),
    ]
    device: Annotated[str, Option(help="auto, cpu, cuda or torch-cpu.")] = "auto"
    precision: Annotated[str, Option(help="auto, fp32, bf16 or fp16.")] = "auto"
    multi_query: Annotated[bool, Option(help="Make one query of all images of an identity in a camera.")] = (
        False
    )
    gallery_checkpoint: Annotated[
        Path | None,
        Option(help="Embed the gallery with this checkpoint, and only the queries with --checkpoint."),
    ] = None
    flip: Annotated[bool, Option(help="Average each crop with its mirror image.")] = False
    rerank: Annotated[bool, Option(help="Re-rank by k-reciprocal neighbours.")] = False
    with_pairs: Annotated[
        bool, Option("--pairs", help="Also print false matches and misses for thresholds on the cosine.")
    ] = False
    as_json: Annotated[
        bool, Option("--json", help="Print only JSON: an object, or a list for several rows.")
    ] = False
