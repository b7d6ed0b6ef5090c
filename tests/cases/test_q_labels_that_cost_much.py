"""A label file of a few megabytes takes no minutes, whatever stands in it."""

from io import BytesIO

import pytest

from model.data.labels import MAX_RECORD, LabelReader
from model.errors import LabelsError

HEADER = b"path,identity_id\n"


@pytest.mark.parametrize("line", [b'"' + b"a" * 90 + b'\n",', b"," * 60_000 + b'"\n"'], ids=["long", "empty"])
def test_q_a_row_over_many_lines_is_refused_before_it_is_long(line: bytes) -> None:
    file = BytesIO(HEADER + b"a.jpg," + line * (40 * MAX_RECORD // len(line)))
    with pytest.raises(LabelsError, match="ends no row"):
        list(LabelReader(file))
    assert file.tell() < 2 * MAX_RECORD


def test_q_a_row_with_many_empty_cells_is_read() -> None:
    rows = list(LabelReader(BytesIO(HEADER + (b"a.jpg,anna" + b"," * 60_000 + b"\n") * 100)))
    assert [row.fields for row in rows] == [{"path": "a.jpg", "identity_id": "anna"}] * 100


def test_q_a_name_over_several_lines_is_read() -> None:
    (row,) = LabelReader(BytesIO(HEADER + b'a.jpg,"an\n\nna"\n'))
    assert (row.line, row.fields["identity_id"]) == (4, "an\n\nna")


def test_q_lines_that_end_with_cr_alone_are_named() -> None:
    with pytest.raises(LabelsError, match="line 1 is not CSV: a line ends with CR alone; save the file"):
        LabelReader(BytesIO(b"path,identity_id\ra.jpg,anna\r"))
