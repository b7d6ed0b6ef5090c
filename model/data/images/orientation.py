"""Turn an image upright by its EXIF or XMP, through Pillow's own `exif_transpose`.

Pillow's parser of EXIF copies the value of each field, and it fails on a field that is damaged although the
orientation is readable. The EXIF is therefore reduced to the one field of the orientation. What the field
means, and how the image is turned, is left to Pillow.
"""

import re
import struct

from PIL import Image, ImageOps

ORIENTATION_TAG = 0x0112

PREFIX = re.compile(rb"^(?:Exif\0\0){1,2}")
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
ENTRY_BYTES = 12
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4}
"""Bytes of a value by its type in TIFF, for types whose values fit into an entry."""

IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def turn_upright(rgb: Image.Image, exif: bytes, xmp: bytes) -> None:
    """Turn an image in place as its EXIF says, or as its XMP says if the EXIF does not.

    Args:
        rgb: the image; its `info` is emptied.
        exif: the EXIF with or without its prefix, or empty.
        xmp: the XMP packet, or empty.
    """
    rgb.info.clear()
    only = _orientation_alone(exif) or _orientation_of_xmp(xmp)
    if only:
        rgb.info["exif"] = only
        ImageOps.exif_transpose(rgb, in_place=True)
        rgb.info.clear()


def _orientation_alone(exif: bytes) -> bytes:
    """Return an EXIF with the orientation as its only field, or nothing."""
    tiff = PREFIX.sub(b"", exif)
    order = BYTE_ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return b""
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return b""
    (count,) = struct.unpack_from(order + "H", tiff, start)
    entries = tiff[start + 2 : start + 2 + count * ENTRY_BYTES]
    for place in range(0, len(entries) - ENTRY_BYTES + 1, ENTRY_BYTES):
        tag, kind, number = struct.unpack_from(order + "HHI", entries, place)
        if tag == ORIENTATION_TAG and 0 < SIZES.get(kind, 8) * number <= 4:
            return _exif_of(order, entries[place : place + ENTRY_BYTES])
    return b""


def _orientation_of_xmp(xmp: bytes) -> bytes:
    found = IN_XMP.search(xmp)
    if not found:
        return b""
    return _exif_of(">", struct.pack(">HHIHH", ORIENTATION_TAG, 3, 1, int(found[1]), 0))


def _exif_of(order: str, entry: bytes) -> bytes:
    sign = next(sign for sign, known in BYTE_ORDERS.items() if known == order)
    return b"Exif\0\0" + sign + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
