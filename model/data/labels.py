"""The label file of crops: CSV in UTF-8 with a row for each crop, such as the `gallery.csv` of an archive."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from model.errors import LabelsError

COLUMNS = ("path", "identity_id", "camera_id", "captured_at", "track_id")
"""The columns that the service reads and writes. The order is free, and unknown columns are ignored."""

ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark."""


@dataclass(frozen=True)
class LabelRow:
    """One row of a label file.

    Attributes:
        line: the number of the line in the file where the row ends, from 1.
        fields: the values by column. A row that is shorter than the header lacks the last columns.
        num_fields: how many values the row has, with the values beyond the header.
    """

    line: int
    fields: dict[str, str]
    num_fields: int


class LabelReader:
    """Iterates over the rows of a label file; empty lines are skipped.

    Attributes:
        columns: the names in the header, which is the first line.

    >>> reader = LabelReader(["path,identity_id", "a.jpg,anna"])
    >>> reader.columns, [row.fields for row in reader]
    (('path', 'identity_id'), [{'path': 'a.jpg', 'identity_id': 'anna'}])
    """

    columns: tuple[str, ...]

    def __init__(self, lines: Iterable[str], *, any_case: bool = False) -> None:
        """Read the header.

        Args:
            lines: a file that is open as text in `ENCODING` with `newline=""`.
            any_case: whether `columns` has the names in lower case and without spaces around them.

        Raises:
            LabelsError: the header is not CSV in UTF-8.
        """
        self._reader = csv.reader(lines, strict=True)
        header = self._next() or []
        self.columns = tuple(name.strip().lower() if any_case else name for name in header)

    def __iter__(self) -> Iterator[LabelRow]:
        """Yield the rows.

        Raises:
            LabelsError: a row is not CSV in UTF-8.
        """
        while (values := self._next()) is not None:
            if values:
                fields = dict(zip(self.columns, values, strict=False))
                yield LabelRow(self._reader.line_num, fields, len(values))

    def _next(self) -> list[str] | None:
        try:
            return next(self._reader, None)
        except (UnicodeDecodeError, csv.Error) as error:
            raise LabelsError(str(error)) from error
