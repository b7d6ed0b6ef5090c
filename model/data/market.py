"""The file names of Market-1501 (Zheng et al., ICCV 2015), which other data sets and our exports use too."""

import re

_MARKET1501_NAME = re.compile(
    r"(?P<pid>-1|[0-9]+)_c(?P<camera>[0-9]+)s[0-9]+_[0-9]+_[0-9]+(?:\.[A-Za-z0-9]+)*", re.IGNORECASE
)
"""Identity, camera, sequence, frame and box, as in `0002_c1s1_000451_03.jpg`, of any numbers of digits."""

EXAMPLE = "0002_c1s1_000451_03.jpg"

JUNK_PID = "-1"
"""The identity of boxes that show no whole person. A search leaves these boxes out."""

DISTRACTOR_PID = "0000"
"""The identity that boxes of many different people, and boxes of no person, have in common. A search includes
these boxes, and no query matches them."""


def parse_market1501_name(name: str) -> tuple[str, str] | None:
    """Return the identity and the camera in a file name, or None if the name has another form.

    The identity keeps its zeros in front, except that every identity of zeros alone is `DISTRACTOR_PID`.

    >>> parse_market1501_name("0002_c1s1_000451_03.jpg")
    ('0002', '1')
    >>> parse_market1501_name("-1_c3s2_001351_04.PNG")
    ('-1', '3')
    >>> parse_market1501_name("1_c10s12_1_0.jfif")
    ('1', '10')
    >>> parse_market1501_name("holiday.jpg") is None
    True
    """
    match = _MARKET1501_NAME.fullmatch(name)
    if match is None:
        return None
    pid = match["pid"]
    return (pid if pid.strip("0") else DISTRACTOR_PID), match["camera"]
