"""A tiny network whose card says how often strangers score as high."""

from pathlib import Path
from typing import Any

from model.card import Card
from model.checkpoint import load_checkpoint, save_checkpoint

COUNTED: dict[str, Any] = {
    "num_identities": 200,
    "num_pairs": 1_000_000,
    "rates": [
        {"rate": rate, "cosine": cosine}
        for rate, cosine in ((0.9, 0.5), (0.3, 0.8), (0.1, 0.9), (0.03, 0.95), (0.01, 0.99))
    ],
    "data": "made up",
}
VERIFICATION: dict[str, Any] = {
    "thresholds": [{"fmr": 1e-3, "cosine": 0.6, "hit_rate": 0.8}],
    "calibration": {"slope": 10.0, "intercept": -5.0},
    "data": "made up",
}


def save_counted(tiny_checkpoint: Path, path: Path) -> Path:
    """Save the tiny network with rates of strangers in its card."""
    tiny = load_checkpoint(tiny_checkpoint)
    card = Card(**{**tiny.card.to_dict(), "verification": VERIFICATION | {"strangers": COUNTED}})
    save_checkpoint(path, tiny.network, card)
    return path
