"""Print what an image installs, one requirement a line: the dependencies of pyproject.toml and its extras.

    python requirements.py BUILD [EXTRA ...]

BUILD is `cuda` or `cpu`. On Linux the dependencies name FAISS for GPUs, which brings CUDA with it. An image
for CPUs alone takes FAISS for CPUs, which every other platform has too.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print the requirements."""
    build, *extras = sys.argv[1:]
    if build not in ("cuda", "cpu"):
        sys.exit(f"BUILD is cuda or cpu, and not {build!r}")
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    lines = [*project["dependency-groups"]["image"], *project["project"]["dependencies"]]
    for extra in extras:
        lines += project["project"]["optional-dependencies"][extra]
    if build == "cpu":
        lines = [line for line in lines if not line.startswith("faiss-gpu")]
        lines = [line.partition(";")[0] if line.startswith("faiss-cpu") else line for line in lines]
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
