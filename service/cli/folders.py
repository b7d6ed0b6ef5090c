"""The crops of files and folders, and what a label file or the names of files say about them.

`reid enroll`, `reid import` and the Market-1501 benchmark read folders by the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from model.data.folders import MANIFEST, NamedFiles, Walk, walk_folder
from model.data.labels import COLUMNS, LabelReader
from model.data.market import DISTRACTOR_PID, EXAMPLE, JUNK_PID, parse_market1501_name
from model.data.names import is_text, show_name
from model.errors import LabelsError
from service.client import ClientError, CropFile, FailedCrop
from service.uploads.layouts import Layout

JUNK = "junk boxes by their names"
STRAY = 10
"""Crops in folders of people for each one beside the folders, which nobody has put away."""

UNNAMED = f"not named by {MANIFEST}"
UNREAD_LABELS = f"{MANIFEST}, which reid import reads"


@dataclass
class FoundCrops:
    """The crops that were found, in the order in which they are enrolled, and what was left out.

    Attributes:
        crops: each with what is known of it.
        failures: crops and folders that cannot be taken.
        num_skipped: how many files were skipped, by kind.
        labels: what says who is on the crops, for a message.
    """

    crops: list[CropFile] = field(default_factory=list)
    failures: list[FailedCrop] = field(default_factory=list)
    num_skipped: Counter[str] = field(default_factory=Counter)
    labels: str = ""

    def summary(self) -> str:
        """Return a sentence about what was found.

        >>> FoundCrops(num_skipped=Counter({"hidden": 2}), labels="no labels").summary()
        '0 crops found, no labels; skipped: 2 hidden'
        """
        kinds = [f"{num:,} {kind}" for kind, num in sorted(self.num_skipped.items())]
        skipped = f"; skipped: {', '.join(kinds)}" if kinds else ""
        return f"{len(self.crops):,} crops found, {self.labels}{skipped}"


LABELS = {
    Layout.flat: "each a person of its own",
    Layout.folders: "labelled by their folders",
    Layout.market1501: "labelled by names as in Market-1501",
}


def find_crops(paths: Iterable[Path], layout: Layout) -> FoundCrops:
    """Look through files and folders, with their subfolders, for crops; take each file once.

    A file that is named itself is always taken. In the layout `market1501` the identity -1 is junk and left
    out, and 0000 (a distractor, not one person) gets no identity, so that the service gives each its own.
    """
    found = FoundCrops(labels=LABELS[layout])
    paths = list(paths)
    walk = walk_folder(*(path for path in paths if path.is_dir()))
    _take_over(walk, found)
    if walk.manifests:
        found.num_skipped[UNREAD_LABELS] = len(walk.manifests)
    for path in dict.fromkeys([*(path for path in paths if not path.is_dir()), *walk.images]):
        if is_text(str(path)):
            _label_by_name(path, layout, found)
        else:
            found.failures.append(FailedCrop(Path(show_name(str(path))), "its path is not UTF-8; rename it"))
    return found


def check_layout(found: FoundCrops, paths: Iterable[Path], layout: Layout) -> None:
    """Refuse a layout that would make one person of many, or many of one.

    Args:
        found: what `find_crops` has found.
        paths: where it has looked.
        layout: how it has read the names.

    Raises:
        ClientError: the names of one folder are those of several people in Market-1501, and the layout would
            make them one; or each crop would be a person, although the crops lie in folders as people do.
    """
    folders: dict[Path, list[str]] = {}
    for crop in found.crops:
        folders.setdefault(crop.path.parent, []).append(crop.path.name)
    if layout is Layout.folders:
        for folder, names in folders.items():
            people = _market1501_people(names)
            if len(people) > 1:
                raise ClientError(
                    f"{folder} is no person: its names are of {len(people):,} people, such as {names[0]}. "
                    f"Say --layout {Layout.market1501}; or --no-check-layout if it is one person"
                )
    if layout is Layout.flat:
        roots = [path for path in paths if path.is_dir()]
        within = {folder: names for folder, names in folders.items() if folder not in roots}
        num_crops = sum(map(len, within.values()))
        num_strays = len(found.crops) - num_crops
        if len(within) > 1 and num_crops >= max(2 * len(within), STRAY * num_strays):
            is_market1501 = all(_market1501_people(names) for names in within.values())
            fitting = Layout.market1501 if is_market1501 else Layout.folders
            raise ClientError(
                f"the {num_crops:,} crops lie in {len(within):,} folders, and each would be a person of its "
                f"own. Say --layout {fitting}; or --no-check-layout if each crop is another person"
            )


def _market1501_people(names: Iterable[str]) -> set[str]:
    """Return the people whom file names name as in Market-1501; none if one of the names does not."""
    parsed = [parse_market1501_name(name) for name in names]
    return {one[0] for one in parsed if one is not None} if all(parsed) else set()


def find_crops_of_folder(folder: Path, layout: Layout) -> FoundCrops:
    """Look for the crops of a folder, and label them by its gallery.csv or else by the layout.

    Of several gallery.csv the outermost is taken; the files that it names are relative to its folder.

    Raises:
        ClientError: gallery.csv cannot be read, a label would be lost, or several lie equally deep.
    """
    walk = walk_folder(folder)
    depth = min((len(path.parts) for path in walk.manifests), default=0)
    manifests = [path for path in walk.manifests if len(path.parts) == depth]
    if not manifests:
        return find_crops([folder], layout)
    if len(manifests) > 1:
        names = " and ".join(str(path.relative_to(folder)) for path in manifests[:2])
        raise ClientError(f"{folder} has {names}; import the folder of each by itself")
    found = FoundCrops(labels=f"labelled by {manifests[0].relative_to(folder)}")
    _take_over(walk, found)
    _label_by_manifest(manifests[0], found)
    named = {crop.path for crop in found.crops}
    num_unnamed = sum(path not in named for path in walk.images)
    if num_unnamed:
        found.num_skipped[UNNAMED] = num_unnamed
    return found


def _take_over(walk: Walk, found: FoundCrops) -> None:
    found.num_skipped += walk.num_skipped
    found.failures += [FailedCrop(path, reason) for path, reason in walk.failures]


def _label_by_name(path: Path, layout: Layout, found: FoundCrops) -> None:
    if layout is not Layout.market1501:
        identity_id = path.absolute().parent.name if layout is Layout.folders else None
        found.crops.append(CropFile(path, identity_id))
    elif (parsed := parse_market1501_name(path.name)) is None:
        found.failures.append(FailedCrop(path, f"its name is not of the Market-1501 form, such as {EXAMPLE}"))
    elif parsed[0] == JUNK_PID:
        found.num_skipped[JUNK] += 1
    else:
        pid, camera_id = parsed
        found.crops.append(CropFile(path, None if pid == DISTRACTOR_PID else pid, camera_id))


def _label_by_manifest(manifest: Path, found: FoundCrops) -> None:
    line_of: dict[Path, int] = {}
    files = NamedFiles(manifest.parent)
    try:
        with manifest.open("rb") as file:
            for row in LabelReader(file):
                path = files.find(row.fields["path"])
                reason = None
                if not path.name or not _is_within(manifest.parent, path):
                    reason = f"line {row.line} of {MANIFEST} names what is not in its folder"
                elif line_of.setdefault(path, row.line) != row.line:
                    reason = f"line {row.line} of {MANIFEST} names the file that line {line_of[path]} names"
                if reason is None:
                    identity_id, camera_id, captured_at, track_id = (
                        row.fields.get(name) or None for name in COLUMNS[1:]
                    )
                    found.crops.append(CropFile(path, identity_id, camera_id, captured_at, track_id))
                else:
                    found.failures.append(FailedCrop(Path(row.fields["path"]), reason))
    except LabelsError as error:
        raise ClientError(f"{manifest}: {error}") from error


def _is_within(folder: Path, path: Path) -> bool:
    return path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts
