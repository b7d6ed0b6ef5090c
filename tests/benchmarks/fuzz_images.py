"""Decode mutated pictures for some minutes: no crash, no other error, bounded time and memory.

    PYTHONPATH=.:tests:tests/support python tests/benchmarks/fuzz_images.py --minutes 10

The corpus is the pictures of tests/support/, which are made by code. A file is mutated by a random seed, so a
failure is repeated with `--seed N --minutes 0`. Each 200 files are decoded in a fork, which may die of one.
"""

import argparse
import os
import random
import struct
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

from PIL import Image

import hostile_pictures as hostile
from decoded_apart import status_bytes
from model.data.images import Limits, decode, decoded_bytes, read_header
from model.errors import ImageError, ModelError
from pictures import FORMS, PNG_SIGNATURE, REFUSED

LIMITS = Limits(max_upload_bytes=10 << 20, max_pixels=4_000_000, min_side=16)
PER_FORK = 200
MAX_S = 1.0
SLACK_BYTES = 4 << 20
"""Bytes that the heap may grow by beside what the header says."""

INTERESTING = (
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"\0\0",
    b"\x0f\xff",
    b"\x7f\xff\xff\xff",
)


def corpus() -> list[bytes]:
    """Return the pictures to mutate: each form, each refused file, and small hostile ones."""
    small = [
        hostile.jpeg_of_scans(64, 128, 20),
        hostile.jpeg_of_scans(1200, 1200, 60, restart_interval=1),
        hostile.flat_png(600, 600, 16, 0),
        hostile.png_of_frames(3),
        hostile.png_of_code_tables(50),
        hostile.webp_of_groups(256, 256),
        hostile.bmp_of_runs(64, 128, 200),
        hostile.text_bomb(b"zTXt", b"Raw profile type exif", 3 << 20),
        hostile.text_bomb(b"iTXt", b"XML:com.adobe.xmp", 3 << 20),
    ]
    return [make() for make in (*FORMS.values(), *REFUSED.values())] + small


def mutate(seed: int, pictures: list[bytes]) -> bytes:
    """Return a picture that is changed in one to four places by chance."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(pictures))
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        near_start = chance.random() < 0.4
        at = chance.randrange(min(len(data), 120) if near_start else len(data))
        span = chance.randint(1, 64)
        match chance.randrange(8):
            case 0 | 1:
                data[at] = chance.randrange(256)
            case 2:
                data[at] ^= 1 << chance.randrange(8)
            case 3:
                value = chance.choice(INTERESTING)
                data[at : at + len(value)] = value
            case 4:
                data[at:at] = data[at : at + span] * chance.choice((1, 2, 50))
            case 5:
                del data[at : at + span]
            case 6:
                del data[at if chance.random() < 0.3 else len(data) :]
            case _:
                other = chance.choice(pictures)
                data[at:] = other[chance.randrange(len(other) + 1) :]
    return _with_sums(bytes(data)) if chance.random() < 0.7 else bytes(data)


def _with_sums(data: bytes) -> bytes:
    """Correct the sums of a PNG's chunks, so that changed chunks are read."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    changed, at = bytearray(data), len(PNG_SIGNATURE)
    while at + 12 <= len(changed):
        (length,) = struct.unpack_from(">I", changed, at)
        end = at + 8 + length
        if end + 4 > len(changed):
            break
        struct.pack_into(">I", changed, end, zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def judge(data: bytes) -> tuple[str, float]:
    """Decode one file; return how it ended, and the seconds of processor time."""
    Path("/proc/self/clear_refs").write_text("5")
    before, started_s = status_bytes("VmRSS"), time.process_time()
    claimed, ended = 0, "taken"
    try:
        claimed = decoded_bytes(read_header(data, LIMITS))
        decode(data, LIMITS)
    except ImageError as error:
        ended = type(error).__name__
    except ModelError as error:
        ended = f"FAILED: {type(error).__name__}"
    except Exception as error:  # noqa: BLE001
        ended = f"FAILED: {type(error).__name__}: {error}"
    took_s = time.process_time() - started_s
    used = status_bytes("VmHWM") - before
    if took_s > MAX_S:
        ended = f"FAILED: {took_s:.2f} s"
    elif used > claimed + 2 * len(data) + SLACK_BYTES:
        ended = f"FAILED: {used:,} bytes used, {claimed:,} claimed"
    return ended, took_s


def _run_fork(first_seed: int, num: int, pictures: list[bytes]) -> tuple[Counter[str], float]:
    """Judge so many files in a fork, which writes one line for each."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        with os.fdopen(writer, "w", buffering=1) as lines:
            for seed in range(first_seed, first_seed + num):
                ended, took_s = judge(mutate(seed, pictures))
                lines.write(f"{took_s}\t{ended}\n")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        told = [line.rstrip("\n").split("\t") for line in answers]
    _, status = os.waitpid(child, 0)
    for seed, (_, ended) in enumerate(told, first_seed):
        if ended.startswith("FAILED"):
            print(f"seed {seed}: {ended}", flush=True)
    counts = Counter(ended.partition(":")[0] for _, ended in told)
    if status:
        print(f"seed {first_seed + len(told)}: FAILED: the process ended with status {status}", flush=True)
        counts["FAILED"] += 1
    return counts, max((float(took_s) for took_s, _ in told), default=0.0)


def main() -> None:
    """Mutate and decode until the time is over, and print the figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    Image.init()
    pictures = corpus()
    for picture in pictures:
        judge(picture)
    if not given.minutes:
        print(judge(mutate(given.seed, pictures)))
        return
    seed, slowest_s, counts = given.seed, 0.0, Counter[str]()
    until_s = time.monotonic() + 60 * given.minutes
    while time.monotonic() < until_s:
        some, took_s = _run_fork(seed, PER_FORK, pictures)
        counts, slowest_s, seed = counts + some, max(slowest_s, took_s), seed + PER_FORK
    print(f"{sum(counts.values()):,} files: {dict(counts)}; the slowest took {slowest_s:.2f} s", flush=True)


if __name__ == "__main__":
    main()
