"""Progress of an epoch: running sums, a bar on the terminal, and an error for dead data loaders."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.engine import distributed
from training.engine.errors import TrainingError
from training.engine.learner import StepResult


@dataclass
class Meter:
    """Running sums over the batches of an epoch."""

    num_images: int = 0
    loss: float = 0.0
    num_correct: int = 0

    def add(self, result: StepResult) -> None:
        """Count one batch."""
        self.loss += result.losses["loss"] * result.num_images
        self.num_correct += result.num_correct
        self.num_images += result.num_images

    def summary(self) -> dict[str, float]:
        """Return the mean loss and the accuracy in percent."""
        count = max(1, self.num_images)
        return {"loss": self.loss / count, "accuracy": 100 * self.num_correct / count}


def progress_bar() -> Progress:
    """Return the bar of the first process; the bars of other processes are disabled."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        disable=distributed.rank() != 0,
    )


@contextmanager
def explain_dead_workers() -> Iterator[None]:
    """Raise `TrainingError` with one line when a process of a data loader has died.

    torch raises from a signal handler, so the error may come from any line.

    Raises:
        TrainingError: such a process has died.
    """
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "a process that reads crops died: there is too little memory, or shared memory; "
            "provide more, or give --workers 0"
        ) from error
