"""Row H15, the versions that are installed: pinned with hashes, audited, and checked in the images."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
AUDITED = (".ci/audit.py", ".ci/advisories.toml", "constraints.txt", "pyproject.toml")
PIN = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; .*)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the audit reads, that a test may change."""
    for name in AUDITED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def audit(project: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, project / ".ci/audit.py"], capture_output=True, text=True, check=False
    )


def add_advisory(project: Path, package: str, affected: str, more: str = "") -> None:
    with (project / ".ci/advisories.toml").open("a") as file:
        file.write(
            f'\n[[advisories]]\npackage = "{package}"\nids = ["CVE-0000-1"]\n'
            f'affected = "{affected}"\nabout = "A drawn hole."\n{more}'
        )


def pinned(name: str) -> Version:
    return Version(dict(PIN.findall((ROOT / "constraints.txt").read_text()))[name])


def test_h15_no_pinned_or_lowest_version_has_a_known_hole(project: Path) -> None:
    answer = audit(project)
    assert answer.returncode == 0, answer.stderr
    assert "No pinned and no lowest version has a hole" in answer.stdout


def test_a_hole_in_a_pinned_version_is_named(project: Path) -> None:
    add_advisory(project, "starlette", f"<={pinned('starlette')}")
    answer = audit(project)
    assert answer.returncode == 1
    assert f"starlette {pinned('starlette')} is pinned in constraints.txt, and has a hole" in answer.stderr


def test_a_hole_in_a_lowest_version_is_named(project: Path) -> None:
    add_advisory(project, "pillow", f"<{pinned('pillow')}")
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(re.sub(r'"pillow>=[\d.]+"', '"pillow>=9.0"', text))
    answer = audit(project)
    assert answer.returncode == 1
    assert "pillow 9.0 is allowed by pyproject.toml, and has a hole: A drawn hole." in answer.stderr


def test_a_hole_that_cannot_be_reached_from_here_is_accepted_with_its_reason(project: Path) -> None:
    add_advisory(project, "starlette", ">0", 'accepted = "The drawn hole is never called."\n')
    assert audit(project).returncode == 0


def test_an_upgrade_is_looked_up_again(project: Path) -> None:
    text = (project / "constraints.txt").read_text()
    (project / "constraints.txt").write_text(text.replace(f"pillow=={pinned('pillow')}", "pillow==99.1"))
    answer = audit(project)
    assert answer.returncode == 1
    assert "pillow 99.1 is pinned, but no advisories were looked up for this version" in answer.stderr


def test_a_requirement_without_a_lowest_version_is_named(project: Path) -> None:
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(re.sub(r'"rich>=\d+"', '"rich"', text))
    answer = audit(project)
    assert answer.returncode == 1
    assert "rich has no lowest version" in answer.stderr


def test_h15_every_pinned_version_has_hashes_and_every_requirement_a_pin() -> None:
    text = (ROOT / "constraints.txt").read_text()
    pins = {name for name, _version in PIN.findall(text)}
    assert len(PIN.findall(text)) == sum(line[:1].isalnum() for line in text.splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    groups = [project["project"]["dependencies"], *extras.values(), *project["dependency-groups"].values()]
    assert {canonicalize_name(Requirement(line).name) for group in groups for line in group} <= pins


@pytest.mark.parametrize("name", ["service", "training"])
def test_an_image_installs_nothing_that_has_no_hash(name: str) -> None:
    commands = (ROOT / f"docker/{name}.Dockerfile").read_text().replace("\\\n", " ")
    installs = [part for part in re.split(r"&&|\n", commands) if "pip install" in part]
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes" in install or "--no-deps --no-build-isolation ." in install
