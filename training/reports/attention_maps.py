"""Heat maps of the spatial attention of each stage over a crop, to show where a network looks.

Shape legend: N images, h x w places of a stage's feature map.
"""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from model.attention import RelationAwareGlobalAttention
from model.checkpoint import Checkpoint

Floats = NDArray[np.float32]
HEAT_SHARE = 0.6
LEAST_RANGE = 1e-4
"""Smallest range of a colour scale, so that values which are printed alike look alike."""
TILE_WIDTH, TILE_HEIGHT, GAP, MARGIN, HEADER, CAPTION, BAR = 128, 256, 16, 16, 22, 34, 8
INK, PAPER = (55, 65, 81), (255, 255, 255)
_HEAT = mpl.colormaps["inferno"]


class VisualizeError(Exception):
    """The network has no spatial attention to show."""


def attention_maps(checkpoint: Checkpoint, images: Sequence[Image.Image]) -> list[Floats]:
    """Return the spatial attention of each stage, float32 (N, h, w) with values 0-1, first stage first.

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
    """Blend a grey crop with the colours of an attention map.

    Args:
        image: the crop.
        map_hw: float32 (h, w).
        low: the value that is shown in dark violet.
        high: the value that is shown in light yellow.

    Returns:
        RGB, of the size of the crop.
    """
    spread = (map_hw - low) / max(high - low, LEAST_RANGE)
    heat = Image.fromarray(spread.clip(0, 1).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    colors = _HEAT(np.asarray(heat), bytes=True)[..., :3]
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colors), HEAT_SHARE)


def draw_attention(
    images: Sequence[Image.Image], maps: Sequence[Floats], *, common_scale: bool = False, across: int = 1
) -> Image.Image:
    """Draw each crop beside its attention maps, with the least and the greatest value of each map.

    Args:
        images: N crops.
        maps: float32 (N, h, w), one array for each stage.
        common_scale: use the colour scale 0-1 for all maps, instead of each map's own range.
        across: crops in a row of the picture.
    """
    block_width, row_height = (1 + len(maps)) * (TILE_WIDTH + GAP), TILE_HEIGHT + CAPTION + GAP
    across = min(across, len(images))
    num_rows = -(-len(images) // across)
    size = 2 * MARGIN + across * block_width - GAP, 2 * MARGIN + HEADER + num_rows * row_height - GAP
    canvas = Image.new("RGB", size, PAPER)
    titles = ["crop", *(f"RGA {number}: {m.shape[1]} x {m.shape[2]}" for number, m in enumerate(maps, 1))]
    for column, title in enumerate(titles * across):
        _write(canvas, MARGIN + column * (TILE_WIDTH + GAP), MARGIN, title)
    for position, image in enumerate(images):
        row, block = divmod(position, across)
        left, top = MARGIN + block * block_width, MARGIN + HEADER + row * row_height
        crop = image.resize((TILE_WIDTH, TILE_HEIGHT), Image.Resampling.BICUBIC)
        canvas.paste(crop, (left, top))
        for stage, maps_Nhw in enumerate(maps, start=1):
            place = left + stage * (TILE_WIDTH + GAP), top
            _draw_map(canvas, place, crop, maps_Nhw[position], common_scale=common_scale)
    return canvas


def _draw_map(
    canvas: Image.Image, place: tuple[int, int], crop: Image.Image, map_hw: Floats, *, common_scale: bool
) -> None:
    left, top = place
    least, greatest = float(map_hw.min()), float(map_hw.max())
    low, high = (0.0, 1.0) if common_scale else (least, greatest)
    canvas.paste(overlay(crop, map_hw, low, high), place)
    bar = _HEAT(np.linspace(0, 1, TILE_WIDTH), bytes=True)[None, :, :3].repeat(BAR, axis=0)
    canvas.paste(Image.fromarray(bar), (left, top + TILE_HEIGHT + 4))
    scale = " of 0 - 1" if common_scale else ""
    _write(canvas, left, top + TILE_HEIGHT + 6 + BAR, f"{least:.4f} - {greatest:.4f}{scale}")


def _write(canvas: Image.Image, left: int, top: int, text: str) -> None:
    ImageDraw.Draw(canvas).text((left, top), text, fill=INK, font=ImageFont.load_default(12))


def to_png(image: Image.Image) -> bytes:
    """Return an image as PNG."""
    png = io.BytesIO()
    image.save(png, format="PNG")
    return png.getvalue()
