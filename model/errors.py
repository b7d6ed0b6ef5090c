"""The errors that model/ raises on purpose, for callers that know nothing of torch, OpenVINO or Pillow."""


class ModelError(Exception):
    """Base of every error of model/; the message is fit to show to a user."""


class CheckpointError(ModelError):
    """A checkpoint file is torn, too large or of another kind, does not fit its card, or is not writable."""


class UnknownArchitecture(ModelError):
    """A network was asked for by a name that is not in ARCHITECTURES."""


class RuntimeUnavailable(ModelError):
    """This machine does not have the device or the precision that was asked for."""


class LabelsError(ModelError):
    """A label file is not CSV in UTF-8."""


class ImageError(ModelError):
    """Bytes cannot be used as an image."""


class UnreadableImage(ImageError):
    """The bytes are not a whole image in JPEG, PNG, WebP or BMP."""


class OversizedImage(ImageError):
    """The image has too many bytes or, by its header, too many pixels, or would take too long to decode."""


class UndersizedImage(ImageError):
    """The width or the height of the image has too few pixels."""


class OutOfMemory(ModelError):
    """The machine has too little memory to decode an image; the image may be sound."""
