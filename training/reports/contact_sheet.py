"""A contact sheet of a data set: each row shows crops of one identity."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw, ImageOps

from training.data.datasets import DISTRACTOR_PID, DatasetError, ReidDataset, Sample, open_crop

MAX_ROWS, MAX_COLUMNS = 12, 10
CELL, LABEL_WIDTH, CAPTION_HEIGHT, GAP = (64, 128), 84, 14, 4
T = TypeVar("T")


def contact_sheet(dataset: ReidDataset) -> Image.Image:
    """Draw crops of some identities, one identity in a row, spread evenly over training and test split.

    A crop that cannot be read leaves a gap.

    Returns:
        RGB, with at most `MAX_ROWS` rows of at most `MAX_COLUMNS` crops.
    """
    people: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for title, samples in (("train", dataset.train), ("test", dataset.query + dataset.gallery)):
        for sample in sorted(dict.fromkeys(samples), key=lambda sample: sample.pid):
            if sample.pid > DISTRACTOR_PID:
                people[title, sample.pid].append(sample)
    rows = _evenly(list(people.items()), MAX_ROWS)
    width, height = CELL[0] + GAP, CELL[1] + CAPTION_HEIGHT + GAP
    num_columns = max((min(MAX_COLUMNS, len(samples)) for _, samples in rows), default=0)
    sheet = Image.new("RGB", (LABEL_WIDTH + num_columns * width, max(1, len(rows)) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, ((title, pid), crops) in enumerate(rows):
        draw.text((GAP, row * height + GAP), f"{title} {pid}\n{len(crops)} crops", fill="black")
        for column, sample in enumerate(_evenly(crops, MAX_COLUMNS)):
            corner = LABEL_WIDTH + column * width, row * height
            _paste(sheet, sample.path, corner)
            draw.text((corner[0], corner[1] + CELL[1]), f"camera {sample.camid}", fill="black")
    return sheet


def _paste(sheet: Image.Image, path: Path, corner: tuple[int, int]) -> None:
    try:
        sheet.paste(ImageOps.contain(open_crop(path), CELL), corner)
    except DatasetError:
        return  # `describe_dataset` reports the file


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` items, evenly spaced.

    >>> _evenly("abcdefgh", 4), _evenly("ab", 4)
    (['a', 'c', 'e', 'g'], ['a', 'b'])
    """
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]
