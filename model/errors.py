"""What can go wrong in model/, for callers that know nothing of torch.

ModelError
├── CheckpointError    a checkpoint file is torn, foreign, too large or does not fit its own card
├── UnknownArchitecture    a name that is not in ARCHITECTURES
├── RuntimeUnavailable    the device or precision that was asked for is not on this machine
└── ImageError    bytes that cannot be used as an image
    ├── UnreadableImage    not an image, torn, or not JPEG/PNG/WebP/BMP
    ├── OversizedImage    too many bytes or pixels
    └── UndersizedImage    too few pixels a side
"""


class ModelError(Exception):
    """Base of every error that model/ raises on purpose; the message is fit to show to a user."""


class CheckpointError(ModelError):
    """A checkpoint file cannot be used; the message says what is wrong with it."""


class UnknownArchitecture(ModelError):
    """A network was asked for by a name that does not exist."""


class RuntimeUnavailable(ModelError):
    """A device or precision was asked for that this machine does not have."""


class ImageError(ModelError):
    """Bytes cannot be used as an image."""


class UnreadableImage(ImageError):
    """The bytes are no image, a torn one, or none of the formats that are read."""


class OversizedImage(ImageError):
    """The image has too many bytes, or too many pixels by its header."""


class UndersizedImage(ImageError):
    """The image has too few pixels a side."""
