"""The optimiser and the schedule of its learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from training.recipes.recipe import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return the recipe's Adam, AdamW (Loshchilov and Hutter, ICLR 2019) or SGD with momentum.

    Parameters that do not require gradients are left out.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(trained, rate, momentum=recipe.momentum, weight_decay=decay, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    optimizer: Optimizer = kind(trained, rate, weight_decay=decay, fused=True)
    return optimizer


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate at a time in epochs: linear warm-up, then cosine to 0 or steps at milestones.

    >>> from dataclasses import replace
    >>> from training.recipes.named import tiny
    >>> recipe = replace(tiny(), num_epochs=11, warmup_epochs=1, learning_rate=1.0)
    >>> [round(learning_rate(recipe, epoch), 3) for epoch in (0, 0.5, 1, 6, 11)]
    [0.01, 0.505, 1.0, 0.5, 0.0]
    >>> stepped = replace(recipe, schedule="step", milestones=(4, 8), milestone_factor=0.1)
    >>> [round(learning_rate(stepped, epoch), 3) for epoch in (0.5, 3.9, 4, 7.9, 8)]
    [0.505, 1.0, 0.1, 0.1, 0.01]
    >>> [round(learning_rate(replace(recipe, schedule_per="epoch"), epoch), 3) for epoch in (0.5, 6.9)]
    [0.01, 0.5]
    """
    if recipe.schedule_per == "epoch":
        epoch = math.floor(epoch)
    if epoch < recipe.warmup_epochs:
        start = recipe.warmup_start_factor
        return recipe.learning_rate * (start + (1 - start) * epoch / recipe.warmup_epochs)
    if recipe.schedule == "step":
        num_passed = sum(milestone <= epoch for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.milestone_factor**num_passed
    done = (epoch - recipe.warmup_epochs) / max(1e-9, recipe.num_epochs - recipe.warmup_epochs)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
