"""Hold the versions that the project allows against the security advisories that are known.

`.ci/advisories.toml` has the advisories, the date on which they were looked up, and the versions of each
package for which that was done. No network is needed, so the audit says the same on every day. It does not
know what was published after that date: CONTRIBUTING.md says how the list is made anew.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

NOWHERE = Version("0")
"""Stands for the lowest version of a requirement that allows any."""

Versions = list[tuple[str, Version]]


def pinned_versions(constraints: str) -> Versions:
    """Return the name and version of every line `name==version` of a constraints file, for all platforms."""
    lines = [line.removesuffix("\\") for line in constraints.splitlines() if line[:1].isalnum()]
    return [
        (canonicalize_name(requirement.name), Version(next(iter(requirement.specifier)).version))
        for requirement in map(Requirement, lines)
    ]


def lowest_versions(project: dict[str, Any]) -> Versions:
    """Return the name and the lowest allowed version of every requirement of a pyproject.toml."""
    groups = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    lowest: Versions = []
    for requirement in (Requirement(line) for group in groups for line in group):
        bounds = [Version(part.version) for part in requirement.specifier if part.operator in {">=", "=="}]
        lowest.append((canonicalize_name(requirement.name), max(bounds, default=NOWHERE)))
    return lowest


def find_holes(versions: Versions, where: str, advisories: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each version that an advisory is about, unless the advisory was accepted."""
    return [
        f"{name} {version} is {where}, and has a hole: {' '.join([advisory['about'], *advisory['ids']])}"
        for name, version in versions
        for advisory in advisories
        if advisory["package"] == name and "accepted" not in advisory
        if SpecifierSet(advisory["affected"]).contains(version, prereleases=True)
    ]


def looked_up(known: dict[str, Any]) -> dict[str, list[str]]:
    """Return the versions of each package for which advisories were looked up."""
    return {**known["searched"], **known["compared"]}


def find_problems(root: Path, known: dict[str, Any]) -> list[str]:
    """Return what is wrong with the versions of the project in `root`, a sentence each."""
    pinned = pinned_versions((root / "constraints.txt").read_text())
    lowest = lowest_versions(tomllib.loads((root / "pyproject.toml").read_text()))
    return [
        *find_holes(pinned, "pinned in constraints.txt", known["advisories"]),
        *find_holes(lowest, "allowed by pyproject.toml", known["advisories"]),
        *(f"{name} has no lowest version in pyproject.toml" for name, lower in lowest if lower == NOWHERE),
        *(
            f"{name} {version} is pinned, but no advisories were looked up for this version"
            for name, version in pinned
            if str(version) not in looked_up(known).get(name, [])
        ),
    ]


def main() -> None:
    """Print what is wrong with the project that this file is in and end with 1, or say what was compared."""
    root = Path(__file__).resolve().parent.parent
    known = tomllib.loads((root / ".ci/advisories.toml").read_text())
    counts = f"{len(looked_up(known))} packages, {len(known['advisories'])} advisories"
    as_of = f".ci/advisories.toml of {known['date']} ({counts})"
    if problems := find_problems(root, known):
        sys.exit("\n".join([*problems, f"This is by {as_of}. CONTRIBUTING.md says what to do."]))
    print(f"No pinned and no lowest version has a hole that is known to {as_of}.")


if __name__ == "__main__":
    main()
