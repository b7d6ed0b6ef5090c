"""The file of an index."""

import re
from pathlib import Path

import pytest

from indexed_items import CLUSTERED_SIZE, SIZE, clustered, clustered_rows
from service.index import GalleryIndex


def test_a_file_that_is_torn_or_foreign_is_refused(tmp_path: Path) -> None:
    index = GalleryIndex(CLUSTERED_SIZE, "ivf")
    index.add(clustered_rows(clustered(11_000), 0, 11_000))
    index.wait()
    path = tmp_path / "index"
    index.write(path)
    whole = path.read_bytes()
    num_ann_bytes = int(re.findall(rb'"structure_bytes": (\d+)', whole)[0])
    for broken in (
        b"",
        b"reid",
        whole[:-1],
        whole[: len(whole) // 2],
        whole[:40],
        whole + b"\0",
        b"x" + whole[1:],
        whole[:60] + b"\xff" * 8 + whole[68:],
        whole[:-num_ann_bytes] + b"\0" * num_ann_bytes,
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"is not an index file|is damaged"):
            GalleryIndex.read(path, "ivf")
    GalleryIndex(SIZE).write(path)
    assert len(GalleryIndex.read(path)) == 0
    with pytest.raises(FileNotFoundError):
        GalleryIndex.read(tmp_path / "absent")
