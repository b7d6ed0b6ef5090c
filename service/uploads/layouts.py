"""How the names of files and folders say who is on a crop, and which camera saw them."""

import re
from enum import StrEnum

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MARKET1501_NAME = re.compile(r"(?P<pid>-1|\d{4}|[1-9]\d{4,})_c(?P<camera>\d+)s\d+_\d+_\d+")
JUNK_PID = "-1"
DISTRACTOR_PID = "0000"


class Layout(StrEnum):
    """How a folder says who is on a crop."""

    flat = "flat"
    folders = "folders"
    market1501 = "market1501"


def parse_market1501_name(name: str) -> tuple[str, str] | None:
    """Read the identity and the camera from a Market-1501 file name; None if the name is not of that form.

    >>> parse_market1501_name("0002_c1s1_000451_03.jpg")
    ('0002', '1')
    >>> parse_market1501_name("-1_c3s2_001351_04.jpg")
    ('-1', '3')
    >>> parse_market1501_name("10000_c1s1_000451_00.jpg")
    ('10000', '1')
    >>> parse_market1501_name("holiday.jpg") is None
    True
    """
    match = MARKET1501_NAME.match(name)
    return (match["pid"], match["camera"]) if match else None
