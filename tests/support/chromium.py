"""The browser that the tests of the page drive, and what to say where the machine has none."""

import shutil

import pytest

NO_CHROMIUM = "there is no Chromium on this machine to open the page in"
HOW_TO_GET_CHROMIUM = "apt-get install -y chromium"


def find_chromium() -> str:
    """Return the path of the machine's Chromium; skip the test where there is none."""
    return shutil.which("chromium") or pytest.skip(NO_CHROMIUM)
