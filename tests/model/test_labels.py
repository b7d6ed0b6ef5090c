"""The label reader, against csv.DictReader, and what is no label file."""

import csv
from io import BytesIO, StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.labels import COLUMNS, FURTHER_COLUMNS, MAX_LINE_BYTES, MAX_ROWS, LabelReader
from model.errors import LabelsError

columns = st.permutations([*COLUMNS, *FURTHER_COLUMNS]).map(lambda names: names[:4])
values = st.sampled_from(["", "a", "path", "é", 'quo"te', "two\nlines", "x,y", " spaced ", " ", "tab\t"])


def read(content: bytes) -> list[dict[str, str]]:
    return [row.fields for row in LabelReader(BytesIO(content), required=())]


@given(
    columns,
    st.lists(st.lists(values, min_size=4, max_size=4)),
    st.sampled_from(["utf-8", "utf-8-sig"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_rows_are_those_of_dict_reader(
    header: list[str], rows: list[list[str]], encoding: str, line_end: str
) -> None:
    text = StringIO(newline="")
    csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    dict_reader = csv.DictReader(StringIO(text.getvalue(), newline=""), strict=True)
    reader = LabelReader(BytesIO(text.getvalue().encode(encoding)), required=())
    assert reader.columns == tuple(dict_reader.fieldnames or ())
    expected = [(row, dict_reader.line_num) for row in dict_reader if any(map(str.strip, row.values()))]
    assert [(row.fields, row.line) for row in reader] == expected


@pytest.mark.parametrize(
    "text",
    [
        "path,identity_id\na.jpg,anna\n",
        "Path , IDENTITY_ID\n a.jpg ,  anna\t\n",
        '\ufeff"path","identity_id"\r\n"a.jpg", "anna"\r\n,\r\n\r\n',
        "path,identity_id,,\na.jpg,anna,,\n,,,\n",
    ],
)
def test_spaces_case_and_empty_cells_do_not_matter(text: str) -> None:
    assert read(text.encode()) == [{"path": "a.jpg", "identity_id": "anna"}]


def test_spaces_within_quotes_are_kept_and_names_are_composed() -> None:
    decomposed = "Jose\u0301"
    rows = read(f'path,identity_id\n{decomposed}.jpg,"{decomposed} "\n'.encode())
    assert rows == [{"path": f"{decomposed}.jpg", "identity_id": "Jos\u00e9 "}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the first line is empty"),
        (b"path\n\xff\xfe", "line 2 is not UTF-8"),
        ("path\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("path\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b'path\n"a.jpg', "line 2 is not CSV"),
        (b"path\rfirst.jpg\r", "line 1 is not CSV"),
        (b"path,identity\na.jpg,anna", "unknown column 'identity'"),
        (b"path,identity_id,note", "unknown column 'note'; the columns are path, identity_id, camera_id"),
        (b"a.jpg,anna", "unknown column 'a.jpg'"),
        (b"path;identity_id", "not by semicolons"),
        (b"path\tidentity_id", "not by tabs"),
        (b"identity_id,camera_id", "no column is named path"),
        (b"path,identity_id,Identity_ID ", "identity_id is there twice"),
        (b"path,identity_id\na.jpg,Smith, John", "line 2 has 3 values, but the header has 2 columns"),
        (b"path,identity_id\na.jpg", "line 2 has 1 values"),
        (b"path,\na.jpg,anna", "line 2 has a value in a column without a name"),
        (b"path\n" + b"x\n" * (MAX_ROWS + 1), "more than 200,000 rows"),
        (b"path\n" + b"\n" * (4 * MAX_ROWS), "more than 800,000 lines"),
        (b"path\n" + b"x" * (MAX_LINE_BYTES + 1), "line 2 has more than 65,536 bytes"),
        (b"path" + b"," * MAX_LINE_BYTES, "line 1 has more than 65,536 bytes"),
    ],
)
def test_no_label_is_lost_without_a_word(content: bytes, reason: str) -> None:
    with pytest.raises(LabelsError, match=reason):
        list(LabelReader(BytesIO(content)))
