"""F2: service, training and evaluation see one picture, for every form of a picture."""

from pathlib import Path

import numpy as np
import pytest

from model.data.images import Limits
from pictures import BY_HAND, FORMS, REFUSED, grey_png, reference
from service.errors import UnreadableImage
from service.uploads.requests import decode
from training.data.datasets import DatasetError, open_crop

LIMITS = Limits(max_upload_bytes=10 << 20, max_pixels=4_000_000, min_side=16)

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Palette images with Transparency")


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_read_as_pillow_reads_it(tmp_path: Path, name: str) -> None:
    expected = reference(BY_HAND.get(name, FORMS[name])())
    served, info = decode(FORMS[name](), LIMITS)
    (tmp_path / name).write_bytes(FORMS[name]())
    trained = open_crop(tmp_path / name)
    assert (served.mode, trained.mode, served.size) == ("RGB", "RGB", (info.width, info.height))
    np.testing.assert_array_equal(np.asarray(served), expected)
    np.testing.assert_array_equal(np.asarray(trained), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_each_other_file_is_refused_by_both(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableImage):
        decode(REFUSED[name](), LIMITS)
    (tmp_path / name).write_bytes(REFUSED[name]())
    with pytest.raises(DatasetError):
        open_crop(tmp_path / name)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_each_depth(depth: int) -> None:
    opaque = np.asarray(decode(grey_png(depth), LIMITS)[0])
    grey = int(opaque[0, 0, 0])
    most = (1 << depth) - 1
    sample = grey * 256 + 99 if depth == 16 else grey * most // 255
    found = np.asarray(decode(grey_png(depth, sample), LIMITS)[0])
    is_grey = (opaque == grey).all(axis=2)
    assert (found[is_grey] == 255).all()
    np.testing.assert_array_equal(found[~is_grey], opaque[~is_grey])
