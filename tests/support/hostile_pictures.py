"""Small files that would cost a decoder much time or memory, made by code."""

import struct
import zlib

from live_server import encode, person
from pictures import PNG_SIGNATURE, chunk, png_of, run_length_bmp, segment


def jpeg_of_scans(width: int, height: int, num_scans: int, restart_interval: int = 0) -> bytes:
    """Return a progressive JPEG in grey whose scans after the first are a few bytes of end-of-band runs."""
    one_code = bytes([1] + [0] * 15)
    blocks = -(-width // 8) * -(-height // 8)
    runs = -(-blocks // 32_767)
    scan = segment(0xDA, b"\1\1\0\1\x3f\0") + bytes(runs * 15 // 8 + 1)
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"),
            segment(0xDD, struct.pack(">H", restart_interval)),
            segment(0xC4, b"\0" + one_code + b"\0"),
            segment(0xC4, b"\x10" + one_code + b"\xe0"),
            segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8 + 1),
            *[scan] * (num_scans - 1),
            b"\xff\xd9",
        ]
    )


def jpeg_of_tables(num_segments: int) -> bytes:
    """Return a JPEG with so many tables of Huffman codes before its pixels."""
    jpeg = encode(person(1), "JPEG")
    return jpeg[:2] + segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0") * num_segments + jpeg[2:]


def jpeg_of_quantisation(num_tables: int) -> bytes:
    """Return a JPEG with so many tables of quantisation, in segments of 100."""
    jpeg = encode(person(1), "JPEG")
    return jpeg[:2] + segment(0xDB, (b"\0" + b"\1" * 64) * 100) * (num_tables // 100) + jpeg[2:]


def jpeg_of_frames(num_frames: int) -> bytes:
    """Return a JPEG that says its size so many times."""
    jpeg = encode(person(1), "JPEG")
    at = jpeg.index(b"\xff\xc0")
    return jpeg[:at] + jpeg[at : at + 19] * num_frames + jpeg[at + 19 :]


def jpeg_of_junk(junk: bytes) -> bytes:
    """Return a JPEG with meaningless bytes between two segments."""
    jpeg = encode(person(1), "JPEG", quality=90)
    at = jpeg.index(b"\xff\xdb")
    return jpeg[:at] + junk + jpeg[at:]


def arithmetic_jpeg() -> bytes:
    """Return a JPEG that says that its coding is arithmetic."""
    return encode(person(1), "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1)


def exif_of_large_fields(num_fields: int, num_bytes: int) -> bytes:
    """Return an EXIF whose fields all have the same value of so many bytes; a parser copies it for each."""
    fields = b"".join(struct.pack("<HHII", 40_000 + i, 7, num_bytes, 8) for i in range(num_fields))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, num_fields) + fields + bytes(num_bytes)


def flat_png(width: int, height: int, depth: int, colour: int, *before: bytes) -> bytes:
    """Return a PNG of zeros, which is small however large the picture is."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return png_of(width, height, depth, colour, bytes((width * channels * depth // 8 + 1) * height), *before)


def png_of_chunks(num_chunks: int) -> bytes:
    """Return a PNG whose pixels come in so many chunks."""
    whole = encode(person(1), "PNG")
    start = whole.index(b"IDAT") - 4
    return whole[:start] + chunk(b"IDAT", b"") * num_chunks + whole[start:]


def text_bomb(kind: bytes, key: bytes, num_bytes: int) -> bytes:
    """Return a PNG with a packed text or ICC profile of so many bytes."""
    packed = zlib.compress(bytes(num_bytes), 9)
    body = key + b"\0\1\0\0\0" + packed if kind == b"iTXt" else key + b"\0\0" + packed
    whole = encode(person(1), "PNG")
    return whole[:33] + chunk(kind, body) + whole[33:]


def png_of_frames(num_frames: int) -> bytes:
    """Return an animated PNG that says that it has so many frames, each an empty one."""
    whole = encode(person(1), "PNG")
    frames = [
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 1 + 2 * i, 64, 128, 0, 0, 1, 10, 0, 0))
        + chunk(b"fdAT", struct.pack(">I", 2 + 2 * i) + zlib.compress(bytes(193 * 128)))
        for i in range(num_frames)
    ]
    animation = chunk(b"acTL", struct.pack(">II", num_frames, 0))
    return whole[:33] + animation + whole[33:-12] + b"".join(frames) + whole[-12:]


def png_of_code_tables(num_blocks: int) -> bytes:
    """Return a PNG whose packed pixels begin with blocks that hold a table of codes and no byte."""
    bits = _Bits()
    bits.add(0x0178, 16)
    for _ in range(num_blocks):
        bits.add(0, 1)
        bits.add(2, 2)
        bits.add(0, 10)
        bits.add(14, 4)
        for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
            bits.add(1 if symbol in (18, 1) else 0, 3)
        bits.add(1 | (138 - 11) << 1, 8)
        bits.add(1 | (118 - 11) << 1, 8)
        bits.add(0, 3)
    size = struct.pack(">IIBBBBB", 64, 128, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", size) + chunk(b"IDAT", bits.bytes()) + chunk(b"IEND", b"")


def webp_of_groups(width: int, height: int) -> bytes:
    """Return a lossless WebP with a group of code tables for each 4 x 4 pixels, up to 65,536 groups."""
    across, down = -(-width // 4), -(-height // 4)
    num_groups = min(across * down, 65_536)
    bits = _Bits()
    bits.add(0x2F, 8)
    bits.add(width - 1, 14)
    bits.add(height - 1, 14)
    bits.add(0, 1 + 3 + 1 + 1)
    bits.add(1, 1 + 3)
    bits.add(0, 1)
    for alphabet in (280, 256):
        _add_flat_codes(bits, alphabet)
    for _ in range(3):
        bits.add(1, 4)
    for place in range(across * down):
        group = min(place, num_groups - 1)
        bits.add(_reversed(group & 255), 8)
        bits.add(_reversed(group >> 8), 8)
    one_group = sum(1 << 4 * i for i in range(5))
    for _ in range(num_groups):
        bits.add(one_group, 20)
    data = bits.bytes() + b"\0" * (len(bits.bytes()) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def webp_claiming(width: int, height: int) -> bytes:
    """Return a WebP whose canvas claims a size."""
    whole = encode(person(1), "WEBP", save_all=True, append_images=[person(2)])
    return whole[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + whole[30:]


def bmp_of_runs(width: int, height: int, num_runs: int) -> bytes:
    """Return a BMP of so many run lengths, which end lines that are ended already."""
    return run_length_bmp(width, height, b"\0\0" * num_runs + b"\0\1")


class _Bits:
    """Bits in the order of deflate and of lossless WebP, the lowest one first."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._value = self._num = 0

    def add(self, value: int, num: int) -> None:
        self._value |= value << self._num
        self._num += num
        while self._num >= 8:
            self._done.append(self._value & 255)
            self._value >>= 8
            self._num -= 8

    def bytes(self) -> bytes:
        return bytes(self._done) + (bytes([self._value & 255]) if self._num else b"")


def _reversed(value: int) -> int:
    return int(f"{value:08b}"[::-1], 2)


def _add_flat_codes(bits: _Bits, alphabet: int) -> None:
    """Add a code of 8 bits for each of the first 256 symbols."""
    bits.add(0, 1)
    bits.add(12 - 4, 4)
    for symbol in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8):
        bits.add(1 if symbol in (0, 8) else 0, 3)
    bits.add(0, 1)
    for symbol in range(alphabet):
        bits.add(1 if symbol < 256 else 0, 1)
