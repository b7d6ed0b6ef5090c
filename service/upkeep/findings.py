"""What `reid check` finds: one thing that is wrong, and what a repair does about it."""

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What can be wrong with a gallery."""

    log = "the change log"
    model = "the file of a model version"
    network = "a converted network in the cache"
    crop = "a crop is gone or has changed"
    embedding = "an embedding is absent or wrong"
    orphan = "a crop belongs to nothing"
    snapshot = "the snapshot of the index"
    name = "one name in two spellings"

    @property
    def is_damage(self) -> bool:
        """Tell whether the gallery is wrong. Two people whose names look alike are right as stored."""
        return self is not FindingKind.name


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or was wrong and is `repaired`.

    Attributes:
        kind: what is wrong.
        detail: which thing it is, and how it is wrong.
        repaired: whether it is right now.
        remedy: what `--repair` does about it; empty if a repair cannot help.
    """

    kind: FindingKind
    detail: str
    repaired: bool = False
    remedy: str = ""
