"""The lists in the pages, compared with the code: settings, error codes, requests and their fields."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.app import create_app
from service.api.problems import HTTP_CODES
from service.errors import ServiceError
from service.settings import SECRETS, Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MAX_WORDS = 700
FILTERS = "index.md#filters"
ROOMS = ("service", "model", "training", "tests", "migrations", "docker", "docs", ".ci")
PAPERS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]


def headings(page: Path, level: str) -> list[str]:
    """Return the headings of a level, such as `##`."""
    return re.findall(rf"^{level} (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def subclasses(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """Return every error class."""
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def requests() -> Iterator[tuple[str, list[str]]]:
    """Return each request of the API, and the names of its query parameters and of the fields of its body."""
    document = create_app(Settings()).openapi()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                names += schemas[_name_of(content["schema"])]["properties"]
            yield f"{method.upper()} {path}", names


def _name_of(schema: dict[str, Any]) -> str:
    choices = schema.get("anyOf", [schema])
    return str(next(one["$ref"] for one in choices if "$ref" in one).rpartition("/")[2])


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The sections of the API's pages by heading; one that links to the filters has their names too."""
    filters = (DOCS / "api" / "index.md").read_text(encoding="utf-8").partition("## Filters")[2]
    found: dict[str, str] = {}
    for page in sorted((DOCS / "api").glob("*.md")):
        for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
            heading, _, text = section.partition("\n")
            request = heading.removesuffix(" as a job")
            found[request] = found.get(request, "") + text + (filters if FILTERS in text else "")
    return found


@pytest.mark.parametrize(("request_line", "names"), [pytest.param(*one, id=one[0]) for one in requests()])
def test_each_request_has_a_section_with_all_its_fields(
    request_line: str, names: list[str], sections: dict[str, str]
) -> None:
    assert request_line in sections
    missing = [name for name in names if f"`{name}`" not in sections[request_line]]
    assert not missing, f"the section {request_line} does not name {missing}"


def test_each_setting_has_a_row_and_each_row_is_a_setting() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(REID_\w+)` \|", page, re.MULTILINE)
    names = [*Settings.model_fields, *(f"{name}_file" for name in SECRETS)]
    assert sorted(rows) == sorted(f"REID_{name.upper()}" for name in names)


def test_each_error_code_has_a_heading_and_each_heading_is_a_code() -> None:
    codes = {kind.code for kind in subclasses(ServiceError)} | {ServiceError.code} | {*HTTP_CODES.values()}
    assert sorted(headings(DOCS / "troubleshooting.md", "###")) == sorted(codes)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_WORDS


def test_the_tree_of_the_architecture_is_that_of_the_code() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(_paths_of(page.partition("```text\n")[2].partition("```")[0]))
    missing = [path for path in named if not path.exists()]
    assert not missing, f"ARCHITECTURE.md names what is not there: {missing}"
    inits = [one for room in ("service", "model", "training") for one in (ROOT / room).glob("*/__init__.py")]
    left_out = {init.parent for init in inits} - named
    assert not left_out, f"ARCHITECTURE.md leaves out {left_out}"


def _paths_of(tree: str) -> Iterator[Path]:
    """Return the path of each line of a tree, whose folders are indented by two spaces each."""
    folders: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        folders = [*folders[: (len(line) - len(line.lstrip())) // 2], name]
        yield ROOT.joinpath(*folders)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_that_a_paper_names_is_there(paper: Path) -> None:
    text = paper.read_text(encoding="utf-8").replace(
        "NNN-short-title", "001-reassociated-relation-convolution"
    )
    named = re.findall(rf"`((?:{'|'.join(map(re.escape, ROOMS))})/[\w./-]+)`", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"{paper.name} names what is not there: {missing}"
