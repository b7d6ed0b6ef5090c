"""The mark of a data folder: the file `gallery-id` names the gallery that keeps its crops there.

A crop that no row of the database needs is deleted. If two galleries shared a folder, each would delete the
crops of the other. So a gallery claims its folder at the start, and looks at the mark before each change.
"""

import os
import secrets
from pathlib import Path

from model.files import open_regular, sync_dir, write_atomically
from service.errors import OtherGallery, StorageUnavailable

MARK = "gallery-id"
MAX_MARK_BYTES = 1_000
HINT = (
    "correct REID_DATA_DIR or REID_DATABASE_URL, or restore a backup with `reid restore`; to begin a new "
    "gallery, name an empty folder in REID_DATA_DIR"
)


class DataFolder:
    """The data folder of one process, and the gallery for which this process has claimed the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = path / MARK
        self._gallery_id: str | None = None

    def owner(self) -> str | None:
        """Return the id of the gallery that has claimed the folder, or None if no gallery has.

        Raises:
            OSError: the mark cannot be read.
        """
        try:
            with open_regular(self._mark) as file:
                return file.read(MAX_MARK_BYTES).decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def claim(self, gallery_id: str) -> None:
        """Write the mark if the folder has none; of several galleries that do so at once, one succeeds.

        Raises:
            OtherGallery: the folder belongs to another gallery.
            OSError: the mark cannot be read or written.
        """
        if self.owner() is None:
            self._write_first(gallery_id)
        self.require_owner(gallery_id)
        self._gallery_id = gallery_id

    def require_owner(self, gallery_id: str) -> None:
        """Check that no other gallery has claimed the folder.

        Raises:
            OtherGallery: another gallery has.
        """
        owner = self.owner()
        if owner not in (None, gallery_id):
            raise OtherGallery(
                f"the data folder {self.path.absolute()} belongs to gallery {owner!r:.64}, and the database "
                f"to gallery {gallery_id!r}: {HINT}"
            )

    def give_to(self, gallery_id: str) -> None:
        """Replace the mark; a restore does so, once the folder holds the crops of the backup."""
        write_atomically(self._mark, f"{gallery_id}\n".encode())

    def check(self) -> None:
        """Check that the folder still has the mark of this process; without a claim nothing is checked.

        Raises:
            OtherGallery: another gallery has taken the folder.
            StorageUnavailable: the mark is gone, as when the folder is unmounted or replaced.
        """
        if self._gallery_id is None:
            return
        if self.owner() is None:
            raise StorageUnavailable(
                f"the data folder has lost its file {MARK}: mount the folder, or put the right one back; "
                "if the folder is the right one, restart the service"
            )
        self.require_owner(self._gallery_id)

    def _write_first(self, gallery_id: str) -> None:
        """Write the mark whole, unless another process has written one just now."""
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self._mark.with_name(f".{MARK}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(f"{gallery_id}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            _link(temporary, self._mark)
            sync_dir(self.path)
        finally:
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Give a file a name that is not taken; a file that has the name stays."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.rename(path)
