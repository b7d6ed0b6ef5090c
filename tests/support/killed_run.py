"""Kill a training run by SIGKILL several times: ``python tests/support/killed_run.py PEOPLE FOLDER``.

FOLDER/whole is an uninterrupted run. FOLDER/killed is the same run, started several times and killed in the
middle of a step each time but the last. The starts differ in the number of workers and in the time between
saved states. Each start is a forked process, so that the libraries are loaded only once.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from training.data.readers import read_market1501
from training.engine.trainer import Trainer
from training.recipes.named import tiny
from training.recipes.recipe import Recipe

RECIPE: Recipe = replace(
    tiny(),
    num_epochs=3,
    precision="fp32",
    optimizer="adamw",
    learning_rate=1e-2,
    pooling="gem",
    circle_weight=0.1,
    centre_weight=0.01,
    teacher_relations_weight=1.0,
    auto_augment="trivial_augment",
    accumulation_steps=3,
    num_held_out=2,
    identities_per_batch=2,
    evaluate_every=1,
)
MAX_LIVES = 40


class MortalTeacher:
    """A teacher of random embeddings, which kills the process after ``num_steps`` steps."""

    size = 4

    def __init__(self, num_steps: int) -> None:
        self._left = num_steps

    def __call__(self, images: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        """Return random embeddings (N, 4), or kill the process."""
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        return torch.rand(len(images), 4)


def live(people: Path, output: Path, num_steps: int, number: int) -> bool:
    """Train in a forked process until the run ends or is killed; return whether it ended."""
    if (process := os.fork()) == 0:
        torch.set_num_threads(1)
        trainer = Trainer(
            RECIPE,
            read_market1501(people),
            output,
            teacher=MortalTeacher(num_steps),
            num_workers=number % 3,
            save_every_s=0 if number % 4 else 3600,
        )
        trainer.fit(resume=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def main(people: Path, folder: Path) -> None:
    """Make both runs, and print how often the second one was killed."""
    assert live(people, folder / "whole", -1, 0)
    for number in range(1, MAX_LIVES):
        if live(people, folder / "killed", 2 + number % 5, number):
            print(number - 1)
            return
    raise SystemExit("the killed run never came to its end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
