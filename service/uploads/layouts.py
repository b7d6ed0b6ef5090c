"""The layouts of folders and archives: how names of files give the identity and the camera of a crop."""

from enum import StrEnum


class Layout(StrEnum):
    """How a folder says who is on a crop."""

    flat = "flat"
    folders = "folders"
    market1501 = "market1501"
