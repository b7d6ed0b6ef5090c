"""What can go wrong in model/, for callers that know nothing of torch.

ModelError
├── CheckpointError    a checkpoint file is torn, foreign, too large or does not fit its own card
├── UnknownArchitecture    a name that is not in ARCHITECTURES
└── RuntimeUnavailable    the device or precision that was asked for is not on this machine
"""


class ModelError(Exception):
    """Base of every error that model/ raises on purpose; the message is fit to show to a user."""


class CheckpointError(ModelError):
    """A checkpoint file cannot be used; the message says what is wrong with it."""


class UnknownArchitecture(ModelError):
    """A network was asked for by a name that does not exist."""


class RuntimeUnavailable(ModelError):
    """A device or precision was asked for that this machine does not have."""
