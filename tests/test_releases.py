"""The changelog has a section for each version, and the newest is the version of the project."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"(\d+\.\d+\.\d+), (not released yet|\d{4}-\d\d-\d\d)")


def sections(page: str) -> list[tuple[str, str]]:
    """Return the version of each section, and when it was released, in the order of the page."""
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    found = [HEADING.fullmatch(heading) for heading in headings]
    assert all(found), headings
    return [(one[1], one[2]) for one in found if one]


def test_the_newest_section_of_the_changelog_is_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sections("CHANGELOG.md")[0][0] == project["version"]


def test_versions_grow_and_all_but_the_newest_have_a_date() -> None:
    found = sections("CHANGELOG.md")
    assert all(Version(newer) > Version(older) for (newer, _), (older, _) in pairwise(found))
    assert all(released != "not released yet" for _, released in found[1:])


def test_the_newest_version_has_its_part_of_what_changed() -> None:
    page = (ROOT / "docs/upgrade.md").read_text(encoding="utf-8")
    told = re.findall(r"^### (\d+\.\d+\.\d+)$", page, re.MULTILINE)
    versions = [version for version, _ in sections("CHANGELOG.md")]
    assert told == versions
