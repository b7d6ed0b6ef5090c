"""Draw where a network looks: the spatial attention map of each stage as a heat map over a crop.

Usage: ``python training/visualize.py --checkpoint FILE IMAGE... --out FILE.png [--common-scale]``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from model.checkpoint import load_checkpoint
from model.files import write_atomically
from training.data.datasets import open_crop
from training.options.command import command, exit_on_error
from training.reports.attention_maps import attention_maps, draw_attention, to_png


@dataclass(frozen=True)
class VisualizeOptions:
    """Options of visualize.py."""

    images: Annotated[list[Path], Argument(help="Crops to show.")]
    checkpoint: Annotated[Path, Option(help="A .safetensors checkpoint.")]
    out: Annotated[Path, Option(help="The .png to write.")]
    common_scale: Annotated[bool, Option("--common-scale", help="Use the colour scale 0-1 for all maps.")] = (
        False
    )


def visualize(options: VisualizeOptions) -> None:
    """Draw the spatial attention of each stage over crops."""
    with exit_on_error("visualize", OSError):
        crops = [open_crop(path) for path in options.images]
        maps = attention_maps(load_checkpoint(options.checkpoint), crops)
        picture = draw_attention(crops, maps, common_scale=options.common_scale)
        write_atomically(options.out, to_png(picture))


main = command(VisualizeOptions, visualize)

if __name__ == "__main__":
    typer.run(main)
