"""From a person crop to what a network reads: the same object in training, evaluation and service."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Color = tuple[float, float, float]

IMAGENET_MEAN: Color = (0.485, 0.456, 0.406)
IMAGENET_STD: Color = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Resize to height x width pixels, scale to 0-1, subtract mean and divide by std (RGB order)."""

    height: int
    width: int
    mean: Color = IMAGENET_MEAN
    std: Color = IMAGENET_STD

    def resize(self, image: Image.Image) -> Image.Image:
        """Return the crop as RGB of the network's size (bilinear; the aspect ratio is not kept)."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return rgb.resize((self.width, self.height), Image.Resampling.BILINEAR)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return float32 (N, 3, H, W) for uint8 pixels of that shape."""
        mean = torch.tensor(self.mean).view(1, 3, 1, 1)
        std = torch.tensor(self.std).view(1, 3, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return float32 (N, 3, H, W), channels-last in memory, for N crops of any size and mode."""
        if not images:
            return torch.empty(0, 3, self.height, self.width)
        pixels = np.stack([np.asarray(self.resize(image), np.uint8) for image in images])
        return self.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def image_to_pixels(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
