"""The site that `make docs` builds: whole, and without anything that a browser would load from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
ELSEWHERE = re.compile(r"(?:https?:)?//")
IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")


class Loaded(HTMLParser):
    """The URLs that a browser loads for a page; links to follow are not among them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        url = given.get(LOADED.get(tag, ""))
        if url and given.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(url)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a copy of docs/ as `make docs` does."""
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--clean"]
    return subprocess.run(
        [*command, "--config-file", "docs/zensical.toml"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project as far as the site shows it."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("site", ".cache", "__pycache__", "*.safetensors")
    for name in ("docs", "model", "service", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def test_the_site_is_built_and_loads_nothing_from_elsewhere(copy: Path) -> None:
    built = build(copy)
    assert built.returncode == 0, built.stdout
    pages = list((copy / "docs" / "site").rglob("*.html"))
    assert len(pages) >= len(list((copy / "docs").rglob("*.md")))
    for page in pages:
        foreign = [url for url in Loaded(page.read_text(encoding="utf-8")).urls if ELSEWHERE.match(url)]
        assert not foreign, page
    for style in (copy / "docs" / "site").rglob("*.css"):
        assert not IN_STYLES.search(style.read_text(encoding="utf-8")), style


def test_a_broken_link_fails_the_build(copy: Path) -> None:
    page = copy / "docs" / "index.md"
    written = page.read_text(encoding="utf-8")
    page.write_text(f"{written}\n[nowhere](nowhere.md)\n", encoding="utf-8")
    broken = build(copy)
    page.write_text(written, encoding="utf-8")
    assert broken.returncode != 0
    assert "page does not exist" in broken.stdout
