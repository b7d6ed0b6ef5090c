"""The label file of crops: CSV in UTF-8 with a row for each crop, such as the `gallery.csv` of an archive."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, TextIO

from model.data.names import normalise_name
from model.errors import LabelsError

COLUMNS = ("path", "identity_id", "camera_id", "captured_at", "track_id")
"""The columns that the service reads and writes, in any order."""

FURTHER_COLUMNS = ("split", "item_id")
"""Columns that are known too: `split` is read by training, and `item_id` is written by an export."""

MAX_BYTES = 64 * 1024 * 1024
MAX_ROWS = 200_000
MAX_LINES = 4 * MAX_ROWS
MAX_LINE_BYTES = 64 * 1024
MAX_RECORD = 1024 * 1024
"""The most characters of a row, which may go over many lines within double quotes. Without a bound, the time
of a row would grow with the square of its length, because each line is added to the lines before it."""

QUOTE = "look for a double quote that is not closed"
CR_ALONE = "a line ends with CR alone; save the file with the line ends of Windows or Unix"
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class LabelRow:
    """One row of a label file.

    Attributes:
        line: the number of the line in the file where the row ends, from 1.
        fields: the value of every column of the file; names are in Unicode's Normalisation Form C, and the
            path is as it stands.
    """

    line: int
    fields: dict[str, str]


class LabelReader:
    """Iterates over the rows of a label file; rows without any value are skipped.

    Names in the header are taken in any case of letters. Spaces around names and values are dropped, except
    within double quotes. No label is lost without a word: a column that is unknown, missing or there twice,
    and a row that is longer or shorter than the header, are errors.

    Attributes:
        columns: the names in the header, which is the first line; a column without a name is "".

    >>> from io import BytesIO
    >>> reader = LabelReader(BytesIO(b"Path, identity_id\\na.jpg, anna"))
    >>> reader.columns, [row.fields for row in reader]
    (('path', 'identity_id'), [{'path': 'a.jpg', 'identity_id': 'anna'}])
    """

    columns: tuple[str, ...]

    def __init__(self, file: BinaryIO, required: tuple[str, ...] = ("path",)) -> None:
        """Read the header.

        Args:
            file: the label file, open for bytes; rows are read as they are asked for.
            required: columns that the file must have.

        Raises:
            LabelsError: the header is not CSV in UTF-8, or a column is unknown, missing or there twice.
        """
        self._lines = _Lines(file)
        self._reader = csv.reader(self._lines, strict=True, skipinitialspace=True)
        header = self._next()
        if not header:
            raise LabelsError("the first line is empty; it must name the columns")
        self.columns = tuple(name.strip().lower() for name in header)
        self._check_columns(required)

    def __iter__(self) -> Iterator[LabelRow]:
        """Yield the rows.

        Raises:
            LabelsError: a row is not CSV in UTF-8 or has another length than the header, or the file has
                more bytes, rows or lines than are read.
        """
        num_rows = 0
        while (values := self._next()) is not None:
            if not any(value.strip() for value in values):
                continue
            num_rows += 1
            if num_rows > MAX_ROWS:
                raise LabelsError(f"it has more than {MAX_ROWS:,} rows; split it")
            yield LabelRow(self._reader.line_num, self._fields(values))

    def _check_columns(self, required: tuple[str, ...]) -> None:
        known = (*COLUMNS, *FURTHER_COLUMNS)
        named = [name for name in self.columns if name]
        if unknown := [name for name in named if name not in known]:
            advice = f"the columns are {', '.join(known)}"
            if unknown[0].startswith(("sep=", "#")):
                advice = "delete this line; the first line must name the columns"
            for separator, plural in SEPARATORS.items():
                if separator in unknown[0]:
                    advice = f"columns are separated by commas, not by {plural}"
            raise LabelsError(f"line 1: unknown column {unknown[0][:80]!r}; {advice}")
        if doubled := [name for name in known if named.count(name) > 1]:
            raise LabelsError(f"line 1: the column {doubled[0]} is there twice")
        if missing := [name for name in required if name not in named]:
            raise LabelsError(f"line 1: no column is named {missing[0]}")

    def _fields(self, values: list[str]) -> dict[str, str]:
        line = self._reader.line_num
        while len(values) > len(self.columns) and not values[-1].strip():
            values.pop()  # a spreadsheet writes commas for cells that are empty
        if len(values) != len(self.columns):
            advice = "put a value with a comma into double quotes"
            if len(values) < len(self.columns):
                advice = "write a comma for each value that is empty too"
            found = f"line {line} has {len(values)} values"
            raise LabelsError(f"{found}, but the header has {len(self.columns)} columns; {advice}")
        if any(value.strip() and not name for name, value in zip(self.columns, values, strict=True)):
            raise LabelsError(f"line {line} has a value in a column without a name")
        fields = {
            name: value if self._is_quoted(value) else value.strip()
            for name, value in zip(self.columns, values, strict=True)
            if name
        }
        return {name: value if name == "path" else normalise_name(value) for name, value in fields.items()}

    def _is_quoted(self, value: str) -> bool:
        """Return whether a value of the last row stands in double quotes, so that its spaces are meant."""
        quoted = '"' + value.replace('"', '""') + '"'
        return value != value.strip() and quoted in self._lines.last_record

    def _next(self) -> list[str] | None:
        self._lines.last_record = ""
        try:
            return next(self._reader, None)
        except csv.Error as error:
            reason = CR_ALONE if "new-line character" in str(error) else str(error)
            raise LabelsError(f"line {self._reader.line_num} is not CSV: {reason}") from error


class LabelWriter:
    """Writes a label file with `COLUMNS`, and further columns if they are given.

    All values stand in double quotes, so that spaces around them are kept.

    >>> from io import StringIO
    >>> file = StringIO(newline="")
    >>> LabelWriter(file).write("a.jpg", {"identity_id": "anna", "camera_id": None})
    >>> file.getvalue().splitlines()[1]
    '"a.jpg","anna","","",""'
    """

    def __init__(self, file: TextIO, further: tuple[str, ...] = ()) -> None:
        """Write the header into a file that is open as UTF-8 with `newline=""`."""
        self._columns = (*COLUMNS[1:], *further)
        self._writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        self._writer.writerow(["path", *self._columns])

    def write(self, path: str, fields: Mapping[str, str | None]) -> None:
        """Write a row; a field that is absent or None is empty."""
        self._writer.writerow([path, *(fields.get(name) for name in self._columns)])


class _Lines:
    """The lines of a file as text, read one by one within bounds.

    Attributes:
        last_record: the lines that were read since the attribute was last set to "".
    """

    def __init__(self, file: BinaryIO) -> None:
        self.last_record = ""
        self._file = file
        self._num_lines = 0
        self._num_bytes = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line:
            raise StopIteration
        self._num_lines += 1
        self._num_bytes += len(line)
        if len(line) > MAX_LINE_BYTES:
            raise LabelsError(f"line {self._num_lines} has more than {MAX_LINE_BYTES:,} bytes")
        if self._num_lines > MAX_LINES or self._num_bytes > MAX_BYTES:
            raise LabelsError(f"it has more than {MAX_LINES:,} lines or {MAX_BYTES:,} bytes; split it")
        try:
            text = line.decode("utf-8-sig" if self._num_lines == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise LabelsError(f"line {self._num_lines} is not UTF-8; save the file as UTF-8") from error
        if "\0" in text:
            raise LabelsError(f"line {self._num_lines} holds a NUL byte; save the file as UTF-8")
        self.last_record += text
        if len(self.last_record) > MAX_RECORD:
            raise LabelsError(f"line {self._num_lines} ends no row within {MAX_RECORD:,} characters; {QUOTE}")
        return text
