"""Which files of a folder or an archive are crops, and the one way in which folders are walked."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from model.data.names import fold_name, is_text, show_name

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
"""Suffixes of image files, in lower case."""

MANIFEST = "gallery.csv"
"""The file of an archive or an exported gallery that has a row for each crop."""

SYSTEM_NAMES = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "desktop.ini",
        "icon\r",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "~snapshot",
    }
)
"""Files and folders that operating and storage systems put among the files of people, in lower case."""

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".xls", ".xlsx", ".ods", ".numbers", ".parquet"})
"""Suffixes of tables, in lower case. A table may hold labels, so a table that is not read is named."""

HIDDEN, SYSTEM, TABLE, OTHER, LINK = (
    "hidden",
    "of the system",
    "tables that are not called gallery.csv, the one table that is read",
    "not images",
    "links to folders that were read already",
)
"""The kinds of files that are skipped."""


def is_image_name(name: str) -> bool:
    """Return whether a file has the suffix of an image.

    >>> is_image_name("0001_c1s1_000101_00.JPG"), is_image_name("notes.txt")
    (True, False)
    """
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_manifest_name(name: str) -> bool:
    """Return whether a file is called gallery.csv, in any case of letters."""
    return name.lower() == MANIFEST


def kind_of_other(name: str) -> str:
    """Return why a file is skipped that is neither an image nor gallery.csv.

    >>> kind_of_other("notes.txt"), kind_of_other("labels.CSV") == kind_of_other("gallery.csv.txt") == TABLE
    ('not images', True)
    """
    stem, suffix = os.path.splitext(name.lower())
    return TABLE if {suffix, os.path.splitext(stem)[1]} & TABLE_SUFFIXES else OTHER


class NamedFiles:
    """The files that a label file names, relative to the folder of the label file.

    A label file that was written on another system may spell the name of a file in another Unicode form or
    case of letters, or with backslashes. Such a name finds the file if no other file has a name like it.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path:
        """Return the path of the file; if there is no such file, the path as the label file has it."""
        spellings = (name, name.replace("\\", "/"))
        exact = (Path(self._folder, text) for text in spellings)
        alike = (path for text in spellings if (path := self._find_alike(text)))
        return next((path for path in chain(exact, alike) if os.path.isfile(path)), Path(self._folder, name))

    def _find_alike(self, name: str) -> Path | None:
        path = self._folder
        for part in Path(name).parts:
            if os.path.exists(path / part):
                path /= part
                continue
            names = self._list(path).get(fold_name(part), [])
            if len(names) != 1:
                return None
            path /= names[0]
        return path

    def _list(self, folder: Path) -> dict[str, list[str]]:
        """Return the names in a folder by what their spellings have in common."""
        if folder not in self._listed:
            alike: dict[str, list[str]] = {}
            self._listed[folder] = alike
            with suppress(OSError):
                for name in os.listdir(folder):
                    alike.setdefault(fold_name(name), []).append(name)
        return self._listed[folder]


def kind_of_skipped(parts: Sequence[str]) -> str | None:
    """Return why a file is skipped whatever its suffix, by the names on its path, or None.

    >>> kind_of_skipped(["a", "._0001_c1s1_000101_00.jpg"]), kind_of_skipped(["@eaDir", "a.jpg"])
    ('hidden', 'of the system')
    """
    if any(part.lower() in SYSTEM_NAMES for part in parts):
        return SYSTEM
    return HIDDEN if any(part.startswith(".") and part != ".." for part in parts) else None


@dataclass
class Walk:
    """What a walk through folders has found.

    Attributes:
        images: files with the suffix of an image, in the order of their paths.
        manifests: files called gallery.csv, in any case of letters.
        num_skipped: how many files were skipped, by kind; a folder that is skipped counts as one file.
        failures: folders and images that cannot be read, each with the reason.
    """

    images: list[Path] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    num_skipped: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Path, str]] = field(default_factory=list)


def walk_folder(*roots: str | Path) -> Walk:
    """Look through folders and their subfolders, each in the order of their paths.

    Hidden files and folders, and those of operating systems and storage systems, are skipped. Symbolic links
    are followed; a folder that links lead to several times is read once, so links in a circle end.
    """
    walk = Walk()
    seen: set[tuple[int, int]] = set()
    """The device and the inode of each folder that was read."""
    folders = [iter([Path(root) for root in roots])]  # no recursion, because folders may lie very deep
    while folders:
        current = next(folders[-1], None)
        if current is None:
            folders.pop()
            continue
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                if len(folders) > 1:  # a root that lies in another root is no link
                    walk.num_skipped[LINK] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(current))
        except OSError as error:
            walk.failures.append((current, f"the folder cannot be read: {error.strerror or error}"))
            continue
        folders.append(_sort_entries(current, names, walk))
    return walk


def _sort_entries(folder: Path, names: Sequence[str], walk: Walk) -> Iterator[Path]:
    """Add the files of a folder to `walk`, and yield its subfolders."""
    for name in names:
        path = folder / name
        if kind := kind_of_skipped([name]):
            walk.num_skipped[kind] += 1
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if path.is_symlink() and not is_image_name(name):
                walk.num_skipped[OTHER] += 1
            else:
                walk.failures.append((path, f"it cannot be read: {error.strerror or error}"))
            continue
        if stat.S_ISDIR(mode):
            yield path
        elif not stat.S_ISREG(mode) or not (is_image_name(name) or is_manifest_name(name)):
            walk.num_skipped[kind_of_other(name)] += 1
        elif not is_text(str(path)):
            walk.failures.append(
                (Path(show_name(str(path))), "its path is not UTF-8: rename the file, or its folder")
            )
        elif is_image_name(name):
            walk.images.append(path)
        else:
            walk.manifests.append(path)
