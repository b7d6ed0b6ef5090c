"""What ends a training run."""


class TrainingError(Exception):
    """A run cannot start or go on; the message says why and what to do."""
