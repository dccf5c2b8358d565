"""Parquet: columns that know what they are, read a batch at a time. An index of pandas' comes first, as in a CSV."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import UnusableFile
from lrtune.uploads.judging import EXACT, Decision

MOST_COLUMNS = 10_000
BATCH = 8192
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
ACCEPTED = "accepted are numbers, flags, dates, spans of time and text"
Texts = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Form:
    """The columns of a file; `fixed` are those that need no judging, by their place."""

    names: tuple[str, ...]
    unnamed: frozenset[str]
    fixed: dict[int, Decision]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows: the number of the first (from 1), and of each column what it says: texts to judge, or values."""

    row: int
    columns: Sequence[Texts | NDArray[Any]]


def form(path: Path, largest: int | None = None) -> Form:
    """The columns of a file. Raises UnusableFile."""
    from pyarrow import parquet  # a heavy import, for tables only

    with parquet.ParquetFile(path) as file:
        meta, schema = file.metadata, file.schema_arrow
    if meta.num_columns > MOST_COLUMNS:
        raise UnusableFile(f"the table has {meta.num_columns} columns; at most {MOST_COLUMNS} are accepted")
    if meta.num_rows == 0:
        raise UnusableFile("the table has no rows")
    groups = (meta.row_group(number).total_byte_size for number in range(meta.num_row_groups))
    unpacked = max(8 * meta.num_rows * meta.num_columns, int(sum(groups)))
    if largest is not None and unpacked > largest:
        raise UnusableFile(f"unpacked, the table takes {unpacked} bytes; at most {largest} are accepted")
    index = [name for name in _index(schema) if name in schema.names]
    names = (*index, *(name for name in schema.names if name not in index))
    fields = [schema.field(schema.names.index(name)) for name in names]
    long = _too_long(meta)
    found = {place: None if field.name in long else _decision(field) for place, field in enumerate(fields)}
    fixed = {place: decision for place, decision in found.items() if decision is not None}
    words = tuple(field.name for place, field in enumerate(fields) if place not in fixed)
    unnamed = frozenset(name for name in index if name.startswith("__index_level_"))
    return Form(names, unnamed, fixed, words)


def _too_long(meta: Any) -> set[str]:
    """Columns of whole numbers that floats may not tell apart: their texts are judged."""
    found = set()
    for group in map(meta.row_group, range(meta.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            known = column.statistics
            if known is None or not known.has_min_max or not isinstance(known.max, int):
                continue
            if known.physical_type == "INT64" and max(abs(known.min), abs(known.max)) > EXACT:
                found.add(column.path_in_schema)
    return found


def _index(schema: Any) -> list[str]:
    """The columns that were pandas' index."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError):
        return []
    return [name for name in noted if isinstance(name, str)]


def _decision(field: Any) -> Decision | None:
    """What a column is by its type; None where its texts are to be judged. Raises UnusableFile."""
    from pyarrow import types

    kind = field.type
    if types.is_null(kind):
        return Decision("text", "no values")
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return Decision("number", "numbers, by the file's own type", way="numbers")
    if types.is_boolean(kind):
        return Decision("flag", "true or false, by the file's own type", way="flags")
    if types.is_timestamp(kind) or types.is_date(kind):
        return Decision("date", "dates, by the file's own type", way="dates")
    if types.is_time(kind) or types.is_duration(kind):
        return Decision("number", "times, in seconds, by the file's own type", way="span")
    if types.is_dictionary(kind) and not types.is_nested(kind.value_type):
        return Decision("text", "categories, by the file's own type")
    if _is_text(kind) or _is_bytes(kind):
        return None
    what = "lists or records" if types.is_nested(kind) else "what cannot be learned from"
    raise UnusableFile(
        f"the column {field.name[:60]!r} holds {what} ({str(kind)[:60]}); {ACCEPTED}: write it as columns of its own, "
        "or leave it out"
    )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any(is_it(kind) for is_it in (types.is_string, types.is_large_string, types.is_string_view))


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    kinds = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(is_it(kind) for is_it in kinds)


def parts(path: Path, form: Form, largest: int | None = None) -> Iterator[Part]:
    """The rows. Raises UnusableFile where words take more than `largest` bytes, or bytes are no words."""
    from pyarrow import parquet

    count, letters = 1, 0
    with parquet.ParquetFile(path, read_dictionary=form.words) as file:
        for batch in file.iter_batches(batch_size=BATCH):
            columns = [batch.column(name) for name in form.names]
            letters += sum(map(_letters, columns))
            if largest is not None and letters > largest:
                raise UnusableFile(f"unpacked, the words of the table take more than the {largest} bytes accepted")
            named = zip(columns, form.names, strict=True)
            yield Part(count, [_values(column, name, judged=name in form.words) for column, name in named])
            count += batch.num_rows


def _letters(column: Any) -> int:
    """The bytes of a column's words, each as often as it comes."""
    from pyarrow import compute, types

    if not types.is_dictionary(column.type) or len(column.dictionary) == 0:
        return 0
    if not (_is_text(column.type.value_type) or _is_bytes(column.type.value_type)):
        return 0
    lengths = compute.binary_length(column.dictionary).cast("int64")
    return int(compute.sum(lengths.take(column.indices)).as_py() or 0)


def _values(column: Any, name: str, *, judged: bool) -> Texts | NDArray[Any]:
    from pyarrow import types

    kind = column.type
    if types.is_null(kind):
        return [None] * len(column)
    if types.is_dictionary(kind):
        known = [_word(value, name) for value in column.dictionary.to_pylist()]
        return [None if place is None else known[place] for place in column.indices.to_pylist()]
    if judged:
        return [_word(value, name) for value in column.to_pylist()]
    return _numbers(column)


def _word(value: Any, name: str) -> str | None:
    if not isinstance(value, bytes):
        return None if value is None else str(value).strip()
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UnusableFile(f"the column {name[:60]!r} holds bytes that are no UTF-8 text; {ACCEPTED}")
    return text.strip()


def _numbers(column: Any) -> NDArray[np.float64]:
    """A column of numbers, flags, dates (seconds since 1970) or times (seconds) as floats; NaN is missing."""
    import pyarrow as pa
    from pyarrow import types

    kind, unit = column.type, 1.0
    if types.is_timestamp(kind) or types.is_date(kind):
        zone = getattr(kind, "tz", None)
        column, unit = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()), 1e-6
    elif types.is_time(kind) or types.is_duration(kind):
        column = column.cast(pa.int32() if types.is_time32(kind) else pa.int64())
        unit = UNITS[kind.unit]
    elif types.is_boolean(kind):
        column = column.cast(pa.uint8())
    found: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found * unit
