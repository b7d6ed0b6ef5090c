"""Draw people who do not exist, to try the service with: ``python tests/draw_people.py FOLDER``.

Each person gets a folder with one crop from each of three cameras: the same clothes in another pose, light
and street. `gallery.csv` says who is on each crop, which camera took it, and when. `query.jpg` is one more
crop of person-3, which the CSV does not name: something to search for.
"""

import csv
import itertools
import random
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Color = tuple[int, int, int]
WIDTH, HEIGHT = 128, 256
SKINS: list[Color] = [(244, 208, 177), (224, 172, 105), (198, 134, 66), (141, 85, 36), (92, 60, 40)]
HAIRS: list[Color] = [(28, 24, 22), (74, 48, 32), (130, 90, 50), (214, 180, 120), (160, 160, 160)]
NUM_PEOPLE, NUM_CAMERAS = 8, 3
QUERY_PERSON, QUERY_CAMERA = 3, 4
STREETS = {1: "door", 2: "hall", 3: "yard"}
MORNING = datetime(2026, 3, 1, 8, tzinfo=UTC)
CASTS = {1: (1.0, 0.9, 0.7), 2: (0.7, 0.9, 1.0), 3: (0.85, 0.7, 0.95)}
"""What a camera makes of red, green and blue when it photographs."""


def draw_person(person: int, camera: int) -> Image.Image:
    """Return a crop, RGB 64 x 128, of one person as one camera sees them."""
    who, where = random.Random(person), random.Random(1000 * person + camera)
    skin, hair = who.choice(SKINS), who.choice(HAIRS)
    shirt, trousers, shoes = (_color(who) for _ in range(3))
    has_skirt, has_bag, build = who.random() < 0.4, who.random() < 0.5, who.uniform(0.8, 1.2)
    image = Image.new("RGB", (WIDTH, HEIGHT), _grey(where))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, where.randint(150, 200), WIDTH, HEIGHT), fill=_grey(where))
    middle, swing = WIDTH / 2 + where.uniform(-8, 8), where.uniform(6, 20)
    half = 26 * build
    for side in (-1, 1):
        foot = middle + side * swing
        draw.line((middle + side * 9, 140, foot, 236), fill=skin if has_skirt else trousers, width=20)
        draw.ellipse((foot - 12, 228, foot + 14, 246), fill=shoes)
        draw.line((middle + side * half, 66, middle + side * (half + swing), 138), fill=shirt, width=13)
    if has_skirt:
        draw.polygon(
            [(middle - 22, 130), (middle + 22, 130), (middle + 36, 186), (middle - 36, 186)], fill=trousers
        )
    draw.rounded_rectangle((middle - half, 54, middle + half, 146), 12, fill=shirt)
    if has_bag:
        draw.rectangle((middle + half - 8, 90, middle + half + 14, 130), fill=hair)
    draw.ellipse((middle - 16, 12, middle + 16, 54), fill=skin)
    draw.pieslice((middle - 18, 8, middle + 18, 50), 180, 360, fill=hair)
    image = ImageEnhance.Brightness(image).enhance(where.uniform(0.75, 1.2))
    return image.filter(ImageFilter.GaussianBlur(1.5)).resize((64, 128))


def photograph(person: int, camera: int, shot: int) -> Image.Image:
    """Return a crop, RGB 64 x 128, with the camera's colour cast, noise, and a pose and street of its own.

    The same clothes have other colours in each of the cameras 1 to 3, so that colours alone tell little.
    """
    pixels_HWC = np.asarray(draw_person(person, 100 * camera + shot), np.float32) * CASTS[camera]
    rng = np.random.default_rng((person, camera, shot))
    noisy_HWC = pixels_HWC * rng.uniform(0.8, 1.2) + rng.normal(0, 12, pixels_HWC.shape)
    return Image.fromarray(noisy_HWC.clip(0, 255).astype(np.uint8))


def write_market1501(folder: Path, people: Iterable[int], cameras: Iterable[int], shots: range) -> None:
    """Write photographs into a folder under the names that Market-1501 has."""
    folder.mkdir(parents=True)
    for person, camera, shot in itertools.product(people, cameras, shots):
        name = f"{person:04d}_c{camera}s1_{shot:06d}_00.jpg"
        photograph(person, camera, shot).save(folder / name, quality=95)


def _color(rng: random.Random) -> Color:
    return rng.randint(20, 235), rng.randint(20, 235), rng.randint(20, 235)


def _grey(rng: random.Random) -> Color:
    level = rng.randint(70, 200)
    return level + rng.randint(-15, 15), level + rng.randint(-15, 15), level + rng.randint(-15, 15)


def main(folder: Path) -> None:
    """Write every crop as FOLDER/person-N/camera-M.jpg, with a row in FOLDER/gallery.csv, and a query."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_person(QUERY_PERSON, QUERY_CAMERA).save(folder / "query.jpg", quality=95)
    with (folder / "gallery.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "identity_id", "camera_id", "captured_at", "track_id"])
        for person, camera in itertools.product(range(1, NUM_PEOPLE + 1), range(1, NUM_CAMERAS + 1)):
            path = Path(f"person-{person}") / f"camera-{camera}.jpg"
            (folder / path).parent.mkdir(exist_ok=True)
            draw_person(person, camera).save(folder / path, quality=95)
            seen = MORNING + timedelta(minutes=7 * person + 20 * camera)
            writer.writerow([path.as_posix(), f"person-{person}", STREETS[camera], seen.isoformat(), ""])
    print(f"{NUM_PEOPLE} people, {NUM_CAMERAS} crops each, and a query.jpg, in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
