"""The browser that the tests of the page drive, and what to say where the machine has none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

NO_CHROMIUM = "there is no Chromium on this machine to open the page in"
HOW_TO_GET_CHROMIUM = "apt-get install -y chromium"
NAMES = "--host-resolver-rules=MAP *.example 127.0.0.1"


def find_chromium() -> str:
    """Return the path of the machine's Chromium; skip the test where there is none."""
    return shutil.which("chromium") or pytest.skip(NO_CHROMIUM)


@contextmanager
def run_chromium() -> Iterator[Browser]:
    """Run Chromium, to which all names of .example are this machine; skip the test where there is none."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", NAMES])
        yield browser
        browser.close()
