"""The files of the page at /: how they are served, and what they may refer to."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from service.api.routes.page import FOLDER, MEDIA_TYPES

FILES = sorted(path.name for path in FOLDER.iterdir())
SVG = "http://www.w3.org/2000/svg"


class References(HTMLParser):
    """What a page refers to, and what it holds that a strict policy forbids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.forbidden: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.urls += [value for name, value in attrs if name in ("src", "href") and value]
        self.forbidden += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.forbidden.append(tag)


@pytest.mark.parametrize("path", ["/", *(f"/web/{name}" for name in FILES)])
def test_a_file_is_served_with_its_type_a_strict_policy_and_an_etag(
    shared_client: httpx.Client, path: str
) -> None:
    name = "index.html" if path == "/" else path.removeprefix("/web/")
    answer = shared_client.get(path)
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob:")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = shared_client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert shared_client.head(path).headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize("path", ["/web/nothing.js", "/web/%2e%2e/app.py", "/web/..%2fapp.py", "/web/"])
def test_nothing_but_the_files_of_the_page_is_served(shared_client: httpx.Client, path: str) -> None:
    answer = shared_client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", FILES)
def test_a_file_refers_to_nothing_outside_and_parses_no_text_as_html(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8").replace(SVG, "")
    assert not re.search(r"https?:|[\"'(]//|@import|data:", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(", text)


def test_everything_that_the_page_refers_to_is_there(shared_client: httpx.Client) -> None:
    page = References((FOLDER / "index.html").read_text(encoding="utf-8"))
    assert not page.forbidden
    ids = set(re.findall(r'id="([^"]+)"', (FOLDER / "index.html").read_text(encoding="utf-8")))
    assert {url[1:] for url in page.urls if url.startswith("#")} <= ids
    for url in page.urls:
        assert shared_client.get(f"/{url.partition('#')[0]}").status_code == 200, url
    for script in FOLDER.glob("*.js"):
        imported = re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8"))
        assert set(imported) <= set(FILES), script


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to parse the modules with")
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_a_module_parses(name: str) -> None:
    with (FOLDER / name).open("rb") as module:
        subprocess.run(["node", "--input-type=module", "--check"], stdin=module, check=True)
