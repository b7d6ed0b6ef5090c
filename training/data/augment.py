"""Augmentation of training crops."""

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from model.preprocess import Preprocess, image_to_pixels
from training.recipes.recipe import Recipe

POLICIES: dict[str, type[nn.Module]] = {
    "auto_augment": v2.AutoAugment,
    "rand_augment": v2.RandAugment,
    "trivial_augment": v2.TrivialAugmentWide,
    "aug_mix": v2.AugMix,
}


class Augment:
    """Augment a crop by a recipe: resize, flip, shift, change colours, normalise and erase a rectangle.

    With ``translation_probability`` the crop is enlarged by ``translation_scale`` and a random part of the
    input size is cut out, as in the "random 2D translation" of the RGA authors' code. The erased rectangle
    (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020) is 0 after normalisation, which is the mean
    colour. All random numbers come from torch's default generator.

    Args:
        recipe: its fields on augmentation and the input size.
        preprocess: the preprocessing of the network.
    """

    def __init__(self, recipe: Recipe, preprocess: Preprocess) -> None:
        height, width, scale = recipe.height, recipe.width, recipe.translation_scale
        self._translation_probability = recipe.translation_probability
        self._preprocess = preprocess
        self._enlarge = Preprocess(round(scale * height), round(scale * width))
        self._cut = v2.RandomCrop((height, width))
        self._change = nn.Sequential(
            v2.RandomHorizontalFlip(recipe.flip_probability),
            v2.RandomCrop((height, width), padding=recipe.crop_padding),
            *_recolour(recipe),
        )
        self._erase = v2.RandomErasing(recipe.erasing_probability, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3))

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the augmented crop, float32 (3, H, W), normalised."""
        pixels: Tensor = self._change(self._resize(image))
        return torch.as_tensor(self._erase(self._preprocess.normalise(pixels[None])[0]))

    def _resize(self, image: Image.Image) -> Tensor:
        if float(torch.rand(())) >= self._translation_probability:
            return image_to_pixels(self._preprocess.resize(image))
        return torch.as_tensor(self._cut(image_to_pixels(self._enlarge.resize(image))))


def _recolour(recipe: Recipe) -> list[nn.Module]:
    changes: list[nn.Module] = []
    if recipe.auto_augment != "none":
        policy = POLICIES[recipe.auto_augment]()
        changes.append(v2.RandomApply([policy], recipe.auto_augment_probability))
    strengths = (
        recipe.jitter_brightness,
        recipe.jitter_contrast,
        recipe.jitter_saturation,
        recipe.jitter_hue,
    )
    if any(strengths):
        changes.append(v2.ColorJitter(*strengths))
    return changes
