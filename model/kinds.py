"""What a file is that was given in place of a checkpoint, by how it begins, and what to do with it."""

import re

FIRST_BYTES = 1024
"""How many bytes of a file tell its kind."""

IMPORT_ONNX = "make a checkpoint of it with `reid models import-onnx`"
IMPORT_TORCH = (
    "take the safetensors checkpoint that training has written; `reid models import-official` makes one of a "
    "file of the RGA authors, and any other network is exported as ONNX first"
)

_KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), sentence)
    for pattern, sentence in (
        (rb"\Z", "is empty or truncated: send the file again"),
        (
            rb"\s*(<\?xml[^>]*>\s*)?<net\b",
            f"is the .xml of an OpenVINO IR: {IMPORT_ONNX}, with its .bin beside it",
        ),
        (
            rb"\s*(<!doctype html|<html|<head|<body)",
            "is a web page: the download has failed, or needs a login",
        ),
        (rb"version https://git-lfs", "is a pointer of Git LFS: fetch the file itself with `git lfs pull`"),
        (rb"PK\x03\x04.*\.pkl", f"is a file of torch.save, such as .pt or .pth: {IMPORT_TORCH}"),
        (rb"PK\x03\x04", "is a zip: unpack it, and send the safetensors checkpoint in it"),
        (
            rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|.{257}ustar",
            "is an archive: unpack it, and send the safetensors checkpoint in it",
        ),
        (rb"\x80[\x02-\x05]", f"is a pickle, such as an old .pth or .pth.tar of torch: {IMPORT_TORCH}"),
        (rb"\x89HDF", "holds weights in HDF5, as Keras writes them: export the network as ONNX"),
        (rb".{4}TFL3", "is a network of TensorFlow Lite: export it as ONNX"),
        (rb"GGUF", "is a language model in GGUF, and no network for images of people"),
        (rb"\x89PNG|\xff\xd8\xff|RIFF.{4}WEBP|BM", "is an image: send a checkpoint"),
        (rb"\x08[\x01-\x1f](\x12|\x1a|\x22|\x3a|\x42|\x10)", f"is an ONNX network: {IMPORT_ONNX}"),
        (rb"[\t\n\r\x20-\x7e\x80-\xff]+\Z", "is plain text: send a safetensors checkpoint"),
    )
)
_OTHER = (
    "is no safetensors checkpoint: `reid models import-onnx` makes one of ONNX, and of an OpenVINO IR, of "
    "which the .xml is given and not the .bin"
)


def kind_of(beginning: bytes) -> str:
    """Say what a file is and what to do with it, as the end of a sentence that begins with its name.

    Args:
        beginning: the first FIRST_BYTES bytes of the file, or the whole file if it is shorter.

    >>> kind_of(b"<!DOCTYPE html><html>")
    'is a web page: the download has failed, or needs a login'
    """
    return next((told for pattern, told in _KINDS if pattern.match(beginning)), _OTHER)
