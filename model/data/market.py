"""The file names of Market-1501 (Zheng et al., ICCV 2015), which other data sets and our exports use too."""

import re

MARKET1501_NAME = re.compile(
    r"(?P<pid>-1|\d{4}|[1-9]\d{4,})_c(?P<camera>\d+)s\d+_\d+_\d+(?P<suffix>(?:\.[A-Za-z0-9]+)*)"
)
"""Identity, camera, sequence, frame and box, as in `0002_c1s1_000451_03.jpg`. An identity has four digits, or
five and more digits without a leading zero, or is -1."""

JUNK_PID = "-1"
"""The identity of boxes that show no whole person. A search leaves these boxes out."""

DISTRACTOR_PID = "0000"
"""The identity that boxes of many different people, and boxes of no person, have in common. A search includes
these boxes, and no query matches them."""


def parse_market1501_name(name: str) -> tuple[str, str] | None:
    """Return the identity and the camera in a file name, or None if the name has another form.

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
