"""Show where a network looks: each stage's spatial attention map as a heat map over a crop.

Usage: ``python training/visualize.py --checkpoint FILE IMAGE... --out FILE.png [--common-scale]``.
Shape legend: N images, h x w positions of a stage.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from model.attention import RelationAwareGlobalAttention
from model.checkpoint import Checkpoint, load_checkpoint
from model.errors import ModelError
from model.files import write_atomically
from training.datasets import DatasetError, open_crop

Floats = NDArray[np.float32]
HEAT_SHARE = 0.6
TILE_WIDTH, TILE_HEIGHT, GAP, MARGIN, HEADER, CAPTION, BAR = 128, 256, 16, 16, 22, 34, 8
INK, PAPER = (55, 65, 81), (255, 255, 255)
_HEAT = mpl.colormaps["inferno"]


class VisualizeError(Exception):
    """There is no map to show; the message says why."""


def attention_maps(checkpoint: Checkpoint, images: Sequence[Image.Image]) -> list[Floats]:
    """Return each stage's spatial attention (N, h, w), values in 0-1, from the first stage to the last.

    Raises:
        VisualizeError: the network has no spatial attention.
    """
    network = checkpoint.network.eval()
    parts = [
        module.spatial for module in network.modules() if isinstance(module, RelationAwareGlobalAttention)
    ]
    stages = [part for part in parts if part is not None]
    if not stages:
        raise VisualizeError(f"{checkpoint.card.architecture} has no spatial attention to show")
    maps: list[Floats] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        maps.append(output[:, 0].float().cpu().numpy())

    handles = [stage.register_forward_hook(keep) for stage in stages]
    try:
        with torch.inference_mode():
            network(checkpoint.preprocess(images).to(next(network.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return maps


def overlay(image: Image.Image, map_hw: Floats, low: float, high: float) -> Image.Image:
    """Return a crop in grey under the heat of a map: ``low`` is dark violet, ``high`` is light yellow."""
    spread = (map_hw - low) / max(high - low, 1e-9)
    heat = Image.fromarray(spread.clip(0, 1).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    colors = _HEAT(np.asarray(heat), bytes=True)[..., :3]
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colors), HEAT_SHARE)


def draw_attention(
    images: Sequence[Image.Image], maps: Sequence[Floats], *, common_scale: bool = False
) -> Image.Image:
    """Draw a row for each image: the crop, then each stage's map over it, and the range of its values.

    A map's colours run from its own least to its greatest value, or from 0 to 1 with ``common_scale``.
    """
    row_height = TILE_HEIGHT + CAPTION + GAP
    width = 2 * MARGIN + (1 + len(maps)) * (TILE_WIDTH + GAP) - GAP
    canvas = Image.new("RGB", (width, 2 * MARGIN + HEADER + len(images) * row_height - GAP), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    grids = [f"stage {number}: {h} x {w}" for number, (_, h, w) in enumerate((m.shape for m in maps), 1)]
    for column, title in enumerate(["crop", *grids]):
        draw.text((MARGIN + column * (TILE_WIDTH + GAP), MARGIN), title, fill=INK, font=font)
    for row, image in enumerate(images):
        top = MARGIN + HEADER + row * row_height
        crop = image.resize((TILE_WIDTH, TILE_HEIGHT), Image.Resampling.BICUBIC)
        canvas.paste(crop, (MARGIN, top))
        for column, stage in enumerate(maps, start=1):
            left, map_hw = MARGIN + column * (TILE_WIDTH + GAP), stage[row]
            least, greatest = float(map_hw.min()), float(map_hw.max())
            low, high = (0.0, 1.0) if common_scale else (least, greatest)
            canvas.paste(overlay(crop, map_hw, low, high), (left, top))
            _draw_bar(canvas, left, top + TILE_HEIGHT + 4)
            text = f"{least:.3f} - {greatest:.3f}"
            draw.text((left, top + TILE_HEIGHT + 6 + BAR), text, fill=INK, font=font)
    return canvas


def _draw_bar(canvas: Image.Image, left: int, top: int) -> None:
    row = _HEAT(np.linspace(0, 1, TILE_WIDTH), bytes=True)[None, :, :3]
    canvas.paste(Image.fromarray(np.repeat(row, BAR, axis=0)), (left, top))


def to_png(image: Image.Image) -> bytes:
    """Return an image as PNG."""
    png = io.BytesIO()
    image.save(png, format="PNG", optimize=True)
    return png.getvalue()


def main(
    images: Annotated[list[Path], typer.Argument(help="Crops to show.")],
    checkpoint: Annotated[Path, typer.Option(help="A .safetensors checkpoint.")],
    out: Annotated[Path, typer.Option(help="The .png to write.")],
    common_scale: Annotated[bool, typer.Option(help="Colours from 0 to 1 for all maps.")] = False,
) -> None:
    """Draw each stage's spatial attention over crops."""
    try:
        crops = [open_crop(path) for path in images]
        maps = attention_maps(load_checkpoint(checkpoint), crops)
        write_atomically(out, to_png(draw_attention(crops, maps, common_scale=common_scale)))
    except (DatasetError, ModelError, VisualizeError, OSError) as error:
        raise SystemExit(f"visualize: {error}") from error


if __name__ == "__main__":
    typer.run(main)
