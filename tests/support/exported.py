"""The contents of an export and of a gallery, for comparison."""

import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx


def items_of(client: httpx.Client) -> list[dict[str, Any]]:
    """Return all items of a gallery, in the order of enrolment."""
    items: list[dict[str, Any]] = client.get("/gallery", params={"limit": 1000}).json()["items"]
    return items


def rows_of(out: Path) -> list[dict[str, str]]:
    """Return the rows of an export, with the crop's bytes in hex for the path and an empty item_id."""
    if out.is_dir():
        read: Callable[[str], bytes] = lambda name: (out / name).read_bytes()  # noqa: E731
        rows = list(csv.DictReader(io.StringIO((out / "gallery.csv").read_text("utf-8"), newline="")))
        return [row | {"path": read(row["path"]).hex(), "item_id": ""} for row in rows]
    with tarfile.open(out) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        contents = {name: member.read() for name, member in members.items() if member}
    rows = list(csv.DictReader(io.StringIO(contents["gallery.csv"].decode(), newline="")))
    return [row | {"path": contents[row["path"]].hex(), "item_id": ""} for row in rows]
