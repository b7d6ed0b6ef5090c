"""The rules of the house that no linter checks: sizes, names, cycles, and who imports whom in the tests."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("service", "model", "training")
FILES = sorted(
    path for folder in (*PACKAGES, "migrations", "tests") for path in (ROOT / folder).rglob("*.py")
)
MAX_LINES = 350
MAX_SERVING_IMPORTERS = 12
NAMELESS = {"utils", "common", "base", "helpers"}


def imported_modules(path: Path) -> set[str]:
    """The modules that a file names in `from ... import` and in `import`."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_is_short_and_says_by_its_name_what_it_holds(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert not NAMELESS & set(path.relative_to(ROOT).with_suffix("").parts)


def test_no_file_imports_by_star() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), path


def test_no_test_file_imports_another() -> None:
    tests = {path.stem for path in FILES if path.stem.startswith("test_")}
    for path in FILES:
        assert not tests & imported_modules(path), path


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_few_modules_know_what_is_in_service() -> None:
    importers = [path for path in FILES if "service.serving.serving" in imported_modules(path)]
    own = [path for path in importers if path.is_relative_to(ROOT / "service")]
    assert len(own) <= MAX_SERVING_IMPORTERS
