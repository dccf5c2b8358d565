"""Tables: CSV a row at a time with the standard library's reader, Parquet a batch at a time with PyArrow's."""

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from lrtune.errors import UnusableFile
from lrtune.uploads.texts import CUT, PAGES, SHOWN, lines, opened
from lrtune.wire.datasets import Column, Description

MOST_COLUMNS = 10_000
COUNTED = 100  # different values of a column
LOOKED_AT = 1000  # rows that tell whether the first is a header
BATCH = 8192
LONGEST = 16 * 1024 * 1024  # characters of a line
_EMPTY = "? #N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null"
MISSING = frozenset((*_EMPTY.split(" "), "", "#N/A N/A"))  # as pandas has it, and "?" as the UCI repository writes it


class Profile:
    """What one column holds, value by value: numbers or words, how many missing, how many different ones."""

    __slots__ = ("missing", "numeric", "values")

    def __init__(self) -> None:
        self.missing, self.numeric = 0, True
        self.values: set[str] = set()

    def see(self, value: str) -> None:
        """Take one cell into account."""
        if value in MISSING:
            self.missing += 1
            return
        if len(self.values) <= COUNTED:
            self.values.add(_short(value))
        if self.numeric and not is_number(value):
            self.numeric = False

    def column(self, name: str) -> Column:
        """The column as it is described."""
        distinct = len(self.values) if len(self.values) <= COUNTED else None
        kind = "number" if self.numeric and self.values else "text"
        return Column(name=name, type=kind, missing=self.missing, distinct=distinct)


def _short(value: str) -> str:
    """What stands for a value where different ones are counted, so that long ones do not fill the memory."""
    return value if len(value) <= CUT else f"{value[:CUT]}{hash(value)}"


def is_number(value: str) -> bool:
    """Whether a cell reads as a number; Python's 1_000 is none."""
    try:
        float(value)
    except ValueError:
        return False
    return "_" not in value


def separator(first: str) -> str:
    """The likeliest of the usual separators, by the first line; a comma when none is there."""
    return max(",;\t|", key=first.count)


def of_csv(path: Path) -> Description:
    """The columns and rows of a CSV file; separator and header are found out. Raises UnusableFile."""
    with opened(path) as file:
        table = _rows(file)
        start = list(islice(table, LOOKED_AT))
        if not start:
            raise UnusableFile("the file has no rows: nothing but blank lines")
        header = _has_header(start)
        names = [name or f"Unnamed: {n}" if header else str(n) for n, name in enumerate(start[0])]
        _unlike(names)
        return _profiled(names, chain(start[header:], table), header=header)


def _rows(file: TextIO) -> Iterator[list[str]]:
    first = file.readline(LONGEST)
    mark = separator(first)
    if first.lstrip().lower().startswith(PAGES):
        raise UnusableFile("the name says csv, but the content is a web page or XML")
    if first.count(mark) >= MOST_COLUMNS:
        raise UnusableFile(f"the first row has {first.count(mark) + 1} columns; at most {MOST_COLUMNS} are accepted")
    file.seek(0)
    reader = csv.reader(lines(file), delimiter=mark, skipinitialspace=True, strict=True)
    width = None
    try:
        for row in reader:
            if row:
                width = width or len(row)
                if len(row) > width:
                    where = f"line {reader.line_num}"
                    raise UnusableFile(f"{where} has {len(row)} fields, and the first row has {width}")
                yield row
    except csv.Error as error:
        why = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        raise UnusableFile(f"line {reader.line_num} is no CSV: {why}") from None


def _has_header(start: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns, as the task `tabular` finds out: no number, no value seen below it."""
    first, below = start[0], start[1:]
    if any(is_number(value) for value in first):
        return False
    seen = ({row[place] for row in below if place < len(row)} for place in range(len(first)))
    if any(value in values for value, values in zip(first, seen, strict=True) if value not in MISSING):
        return False
    if not below:
        raise UnusableFile("the file has a header and no rows below it")
    return True


def _unlike(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UnusableFile(f"two columns are called {name[:60]!r}; accepted are columns with different names")
        seen.add(name)


def _profiled(names: Sequence[str], table: Iterator[list[str]], *, header: bool) -> Description:
    profiles = [Profile() for _ in names]
    count, first = 0, list[list[str | None]]()
    for row in table:
        count += 1
        if count <= SHOWN:
            first.append([value[:CUT] for value in row])
        for profile, value in zip(profiles, row, strict=False):
            profile.see(value)
        for profile in profiles[len(row) :]:
            profile.missing += 1
    columns = [profile.column(name[:CUT]) for profile, name in zip(profiles, names, strict=True)]
    return _described(count, columns, first, header=header)


def _described(rows: int, columns: list[Column], first: list[list[str | None]], *, header: bool = True) -> Description:
    if len(columns) < 2:
        raise UnusableFile("the table has one column; needed are a target and at least one more to learn from")
    notes = [f"{one.name!r} has no values" for one in columns if one.missing == rows]
    notes += [f"{one.name!r} is the same in every row" for one in columns if one.distinct == 1]
    return Description(rows=rows, columns=columns, header=header, first=first, notes=notes[:20])


def of_parquet(path: Path, *, largest: int) -> Description:
    """The columns and rows of a Parquet file. Raises UnusableFile."""
    from pyarrow import parquet  # a heavy import, for uploads only

    with parquet.ParquetFile(path) as file:
        meta, schema = file.metadata, file.schema_arrow
        if meta.num_columns > MOST_COLUMNS:
            raise UnusableFile(f"the table has {meta.num_columns} columns; at most {MOST_COLUMNS} are accepted")
        if meta.num_rows == 0:
            raise UnusableFile("the table has no rows")
        _unlike(schema.names)
        kinds = [_kind(one) for one in schema]
        unpacked = max(8 * meta.num_rows * meta.num_columns, _uncompressed(meta))
        if unpacked > largest:
            raise UnusableFile(f"unpacked, the table takes {unpacked} bytes; at most {largest} are accepted")
    words = [name for name, kind in zip(schema.names, kinds, strict=True) if kind == "text"]
    with parquet.ParquetFile(path, read_dictionary=words) as file:
        return _batches(file, schema.names, kinds, largest=largest)


def _uncompressed(meta: Any) -> int:
    return int(sum(meta.row_group(number).total_byte_size for number in range(meta.num_row_groups)))


def _kind(field: Any) -> str:
    from pyarrow import types

    kind = field.type
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_boolean(kind):
        return "flag"
    if types.is_temporal(kind):
        return "date"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind):
        return "text"
    raise UnusableFile(
        f"the column {field.name[:60]!r} holds {str(kind)[:60]}; accepted are numbers, flags, dates and text"
    )


def _batches(file: Any, names: Sequence[str], kinds: Sequence[str], *, largest: int) -> Description:
    missing, values = [0] * len(names), [set[str]() for _ in names]
    first: list[list[str | None]] = []
    letters = rows = 0
    for batch in file.iter_batches(batch_size=BATCH):
        rows += batch.num_rows
        for place, column in enumerate(batch.columns):
            missing[place] += column.null_count
            letters += _letters(column)
            if letters > largest:
                raise UnusableFile(f"unpacked, the words of the table take more than the {largest} bytes accepted")
            if len(values[place]) <= COUNTED:
                values[place] |= {_short(str(one)) for one in column.unique()[: COUNTED + 2] if one.is_valid}
        for row in range(min(SHOWN - len(first), batch.num_rows)):
            first.append([_cell(column[row]) for column in batch.columns])
    columns = [
        Column(name=name[:CUT], type=kind, missing=gone, distinct=len(seen) if len(seen) <= COUNTED else None)
        for name, kind, gone, seen in zip(names, kinds, missing, values, strict=True)
    ]
    return _described(rows, columns, first)


def _letters(column: Any) -> int:
    """The bytes of a column's words, each as often as it comes."""
    from pyarrow import compute, types

    if not types.is_dictionary(column.type) or len(column.dictionary) == 0:
        return 0
    if not (types.is_string(column.type.value_type) or types.is_large_string(column.type.value_type)):
        return 0
    lengths = compute.binary_length(column.dictionary).cast("int64")
    return int(compute.sum(lengths.take(column.indices)).as_py() or 0)


def _cell(scalar: Any) -> str | None:
    value = scalar.as_py()
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return None if missing else str(value)[:CUT]
