"""The label reader, against csv.DictReader, and what is no label file."""

import csv
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.labels import ENCODING, LabelReader
from model.errors import LabelsError

values = st.sampled_from(["", "a", "path", "é", 'quo"te', "two\nlines", "x,y"])


def read(content: bytes, *, any_case: bool = False) -> LabelReader:
    return LabelReader(TextIOWrapper(BytesIO(content), ENCODING, newline=""), any_case=any_case)


@given(
    st.lists(values, max_size=4, unique=True),
    st.lists(st.lists(values, max_size=5)),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_rows_are_those_of_dict_reader(header: list[str], rows: list[list[str]], encoding: str) -> None:
    text = StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    wanted = csv.DictReader(StringIO(text.getvalue(), newline=""), restkey="surplus", strict=True)
    reader = read(text.getvalue().encode(encoding))
    assert reader.columns == tuple(wanted.fieldnames or ())
    for row, fields in zip(reader, wanted, strict=True):
        surplus = fields.pop("surplus", "")
        known = {name: value for name, value in fields.items() if value is not None}
        assert (row.fields, row.line) == (known, wanted.line_num)
        assert row.num_fields == len(known) + len(surplus)


def test_names_of_columns_are_compared_as_they_are_or_in_any_case() -> None:
    content = b"Path, Identity_ID\na.jpg,anna\n"
    assert read(content).columns == ("Path", " Identity_ID")
    assert read(content, any_case=True).columns == ("path", "identity_id")


@pytest.mark.parametrize("content", [b"path\n\xff\xfe", b'path\n"a.jpg', b"path\n" + bytes([0x61]) * 200_000])
def test_what_is_no_label_file_is_refused(content: bytes) -> None:
    with pytest.raises(LabelsError):
        list(read(content))
