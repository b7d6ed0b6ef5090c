"""The decoder of untrusted images, which service, training and evaluation share.

`read_header` says from a few bytes what an image would cost, and refuses an image that would cost too much.
`decode` turns an image into upright RGB. `decoded_bytes` is the memory that `decode` needs for it.
"""

from model.data.images.decoder import CONTENT_TYPES, ImageInfo, decode, read_header
from model.data.images.header import STORED, UNLIMITED, Header, Limits, decoded_bytes
from model.data.images.orientation import ORIENTATION_TAG

__all__ = [
    "CONTENT_TYPES",
    "ORIENTATION_TAG",
    "STORED",
    "UNLIMITED",
    "Header",
    "ImageInfo",
    "Limits",
    "decode",
    "decoded_bytes",
    "read_header",
]
