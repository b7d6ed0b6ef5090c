"""Mutations of the bytes of a file, by a seed."""

import random

PIECES = (
    b"\0",
    b"\xff" * 8,
    b'"',
    b"<",
    b"[" * 50,
    b"9" * 40,
    b"-1",
    b"4294967296",
    b"\x80\x02cos\nsystem\n",
    b"NaN",
)


def mutate(content: bytes, seed: int) -> bytes:
    """Change, delete, insert, copy or swap a few bytes; a change may keep the length of the file."""
    rng, data = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                del data[place : place + rng.randint(1, 30)]
            case 2:
                data[place:place] = rng.choice(PIECES)
            case 3:
                piece = rng.choice(PIECES)
                data[place : place + len(piece)] = piece
            case 4:
                start = rng.randrange(len(data))
                copied = data[start : start + rng.randint(1, 60)]
                data[place : place + len(copied)] = copied
            case _:
                digits = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
                if digits:
                    data[rng.choice(digits)] = rng.choice(b"0123456789")
    return bytes(data)
