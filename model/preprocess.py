"""From a person crop to the input of a network: the same object in training, evaluation and service."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Color = tuple[float, float, float]
Pixels = NDArray[np.uint8]

IMAGENET_MEAN: Color = (0.485, 0.456, 0.406)
IMAGENET_STD: Color = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Resizes a crop, scales its pixels to 0-1, subtracts the mean and divides by the standard deviation.

    Args:
        height: of the network's input, in pixels.
        width: of the network's input, in pixels.
        mean: of each channel, in RGB, for pixels from 0 to 1.
        std: standard deviation of each channel, in RGB, for pixels from 0 to 1.
    """

    height: int
    width: int
    mean: Color = IMAGENET_MEAN
    std: Color = IMAGENET_STD

    def resize(self, image: Image.Image) -> Image.Image:
        """Return a crop in RGB and in the size of the network's input, by bilinear interpolation.

        The aspect ratio is not kept.
        """
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return rgb.resize((self.width, self.height), Image.Resampling.BILINEAR)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return float32 (N, 3, H, W), normalised, for uint8 pixels (N, 3, H, W) in RGB."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def pixels(self, images: Sequence[Image.Image]) -> Pixels:
        """Resize N crops of any size and mode; return uint8 (N, H, W, 3) in RGB."""
        resized = [np.asarray(self.resize(image), np.uint8) for image in images]
        return np.stack(resized) if resized else np.empty((0, self.height, self.width, 3), np.uint8)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Resize and normalise N crops of any size and mode.

        Returns:
            float32 (N, 3, H, W), with the channels last in memory.
        """
        return self.normalise(torch.from_numpy(self.pixels(images)).permute(0, 3, 1, 2))


def image_to_pixels(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB image, uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
