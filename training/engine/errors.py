"""The error that ends a training run."""


class TrainingError(Exception):
    """A run cannot start or continue; the message says why and what to do."""
