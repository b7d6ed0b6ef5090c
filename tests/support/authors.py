"""Checkpoints in the format of the RGA authors' code."""

from pathlib import Path

import torch
from torch import nn

from references import AuthorsNetwork

NUM_IDENTITIES = 7


def make_authors(branch: str, seed: int = 0) -> AuthorsNetwork:
    """Return the authors' network with random weights and the batch statistics of random images."""
    torch.manual_seed(seed)
    network = AuthorsNetwork(branch, NUM_IDENTITIES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 256, 128))
    return network.eval()


def save_authors(path: Path, state: object) -> Path:
    """Write a checkpoint as the authors' training code does."""
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 8e-4}]}
    torch.save({"state_dict": state, "epoch": 360, "best_top1": 0, "optimizer": optimizer}, path)
    return path
