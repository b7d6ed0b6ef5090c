"""What is done to a training crop before a network sees it."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from model.preprocess import Preprocess, image_to_pixels
from training.recipes import Recipe


class Augment:
    """Resize, flip, shift within a padded frame, normalise, erase a rectangle (Zhong et al., AAAI 2020).

    The erased rectangle is 0 after normalisation, that is, the mean colour.
    """

    def __init__(self, recipe: Recipe, preprocess: Preprocess) -> None:
        self._preprocess = preprocess
        self._move = v2.Compose(
            [
                v2.RandomHorizontalFlip(recipe.flip_probability),
                v2.RandomCrop((recipe.height, recipe.width), padding=recipe.crop_padding),
            ]
        )
        self._erase = v2.RandomErasing(recipe.erasing_probability, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3))

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 (3, H, W)."""
        pixels: Tensor = self._move(image_to_pixels(self._preprocess.resize(image)))
        return torch.as_tensor(self._erase(self._preprocess.normalise(pixels[None])[0]))
