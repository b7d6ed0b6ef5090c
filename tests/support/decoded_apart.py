"""Decode files in a fresh process, and print what each took: `python decoded_apart.py MAX_PIXELS FILE...`.

Each file is decoded in a fork of its own, so the peak of its memory is its own.
"""

import json
import os
import sys
import time
import warnings
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image

from model.data.images import Limits, decode, decoded_bytes, read_header
from model.errors import ModelError


def status_bytes(field: str) -> int:
    """Return a number of bytes from the status of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(data: bytes, limits: Limits) -> dict[str, object]:
    """Decode, and return the seconds, the bytes beyond the start, the bytes claimed, and the refusal."""
    claimed, refusal = 0, ""
    before, started_s = status_bytes("VmRSS"), time.process_time()
    try:
        claimed = decoded_bytes(read_header(data, limits))
        decode(data, limits)
    except ModelError as error:
        refusal = f"{type(error).__name__}: {error}"
    took_s = time.process_time() - started_s
    used = status_bytes("VmHWM") - before
    return {"took_s": took_s, "used_bytes": used, "claimed_bytes": claimed, "refusal": refusal}


def load_code() -> None:
    """Decode a picture with EXIF, so that no fork has to load the code for it."""
    exif, file = Image.Exif(), BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (32, 64)).save(file, "JPEG", exif=exif)
    measure(file.getvalue(), Limits(10 << 20, 4_000_000, 16))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    Image.init()
    load_code()
    for path in sys.argv[2:]:
        content = Path(path).read_bytes()
        if (child := os.fork()) == 0:
            print(json.dumps(measure(content, Limits(10 << 20, int(sys.argv[1]), 16))), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
