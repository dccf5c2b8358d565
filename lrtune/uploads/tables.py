"""Tables: the one reader of CSV and Parquet files, for the server that describes them and the worker that trains.

A table is read twice: once to decide what each column is, once to read it so. Only `read` keeps what it has read.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import UnusableFile
from lrtune.uploads import cells, columnar, delimited, likeness
from lrtune.uploads.judging import Decision, Judge
from lrtune.uploads.options import Options
from lrtune.uploads.summaries import Summary
from lrtune.uploads.texts import CUT, SHOWN
from lrtune.wire.datasets import Column, Description

READER = 2  # the version of what is decided here: a description of another version is made anew
COUNTED = 1000  # different values of a column, fewer where there are many columns
COUNTED_IN_ALL = 1_000_000
NOTES = 20
PARQUET = b"PAR1"
UNNAMED = re.compile(r"Unnamed: \d+(\.\d+)*|__index_level_\d+__")


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it was understood: of each column its numbers (NaN is missing) or its words (None is missing).

    Dates are seconds since 1970.
    """

    description: Description
    values: Mapping[str, NDArray[Any]]
    decisions: Mapping[str, Decision]
    distinct: Mapping[str, frozenset[str]]  # the different values of those columns that have not too many


class _Part(Protocol):
    @property
    def row(self) -> int: ...
    @property
    def columns(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class _Source:
    """A file, whatever its kind: the names of its columns, and its rows as often as they are wanted."""

    names: tuple[str, ...]
    parts: Callable[[], Iterator[_Part]]
    fixed: Mapping[int, Decision]
    missing: frozenset[str]
    header: bool
    mark: str = ""
    notes: tuple[str, ...] = ()
    read_as: dict[str, str] = field(default_factory=dict)


def understood(path: Path, options: Options | None = None, *, like: Table | None = None) -> Table:
    """A table without its values, read as `like` is, where that is given. Raises UnusableFile."""
    return _read(path, options or Options(), None, keep=False, like=like)


def describe(path: Path, options: Options | None = None, *, largest: int | None = None) -> Description:
    """The columns and rows of a table. Raises UnusableFile."""
    return _read(path, options or Options(), largest, keep=False).description


def read(path: Path, options: Options | None = None, *, like: Table | None = None) -> Table:
    """A whole table, in memory, read as `like` is. Raises UnusableFile, as well where that cannot be."""
    return _read(path, options or Options(), None, keep=True, like=like)


def _read(path: Path, options: Options, largest: int | None, *, keep: bool, like: Table | None = None) -> Table:
    again: list[int] = []
    source = _source(path, options, largest, again)
    decisions = _decided(source, options, like)
    repeated = [f"the header stands again on line {_listed(again)}: left out"] if again else []
    counted = max(100, min(COUNTED, COUNTED_IN_ALL // len(source.names)))
    summaries = [Summary(decision, counted) for decision in decisions]
    kept: list[list[NDArray[Any]]] = [[] for _ in decisions]
    numbers = [value for word in options.missing if not np.isnan(value := cells.number(word, "."))]
    first: list[list[str | None]] = []
    for part in source.parts():
        for place, decision in enumerate(decisions):
            values = _converted(part.columns[place], decision, source.missing, numbers)
            summaries[place].see(values, partial(_where, part))
            if keep:
                kept[place].append(values)
        some = range(min(SHOWN - len(first), len(part.columns[0])))
        first += [
            [_shown(column[row], decision) for column, decision in zip(part.columns, decisions, strict=True)]
            for row in some
        ]
    if source.read_as and (decimals := {one.decimal for one in decisions if one.decimal}):
        source.read_as["decimal"] = " and ".join(sorted(decimals))
    description = _described(source, summaries, first, repeated)
    names = [column.name for column in description.columns]
    whole = {name: np.concatenate(arrays) for name, arrays in zip(names, kept, strict=False) if arrays}
    if like:
        likeness.same_flags(like.description.columns, description.columns)
    distinct = {name: known for name, one in zip(names, summaries, strict=False) if (known := one.known())}
    return Table(description, whole, dict(zip(names, decisions, strict=False)), distinct)


def _source(path: Path, options: Options, largest: int | None, again: list[int]) -> _Source:
    with path.open("rb") as file:
        parquet = file.read(4) == PARQUET
    if parquet:
        shape = columnar.form(path, largest)
        rows = partial(columnar.parts, path, shape, largest)
        return _Source(shape.names, rows, shape.fixed, frozenset((*options.missing, "")), header=True)
    form = delimited.form(path, options, largest)

    def parts() -> Iterator[_Part]:
        again.clear()
        return delimited.parts(path, form, largest, again=again)

    read_as = {"separator": form.separator, "encoding": form.encoding.removesuffix("-sig")}
    missing = cells.MISSING | set(options.missing)
    return _Source(form.names, parts, {}, missing, form.header, form.separator, form.notes, read_as)


def _decided(source: _Source, options: Options, like: Table | None) -> list[Decision]:
    known = likeness.wanted(source.names, like.description.columns, like.decisions) if like else {}
    judges = {
        place: Judge(options, source.missing, known[name].ways() if name in known else None)
        for place, name in enumerate(source.names)
        if place not in source.fixed
    }
    if judges:
        for part in source.parts():
            for place, judge in judges.items():
                judge.see(part.columns[place], partial(_where, part))
    votes = sum(judge.vote() for judge in judges.values())
    decisions = []
    for place, name in enumerate(source.names):
        mine = judges.get(place)
        if mine is None:
            found = source.fixed[place]
        elif name in known and mine.given is not None:
            found = known[name].judged(mine)
        else:
            found = mine.decide(votes=votes, mark=source.mark)
        empty = mine is not None and not mine.seen
        decisions.append(known[name].same(found, empty=empty) if name in known else found)
    return decisions


def _where(part: _Part, place: int) -> str:
    lines = getattr(part, "lines", None)
    return f"row {part.row + place}" + (f" (line {lines[place]} of the file)" if lines else "")


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:5])) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")


def _converted(column: Any, decision: Decision, missing: frozenset[str], numbers: Sequence[float]) -> NDArray[Any]:
    """A column as what it was decided to be."""
    if isinstance(column, np.ndarray):
        values = column
        if decision.type == "text":  # words elsewhere, which this table is to be like
            return np.array([*(None if np.isnan(one) else cells.word(one) for one in column), None], dtype=object)[:-1]
    elif decision.parse is None:
        known: dict[str, str] = {}
        words = [None if text is None or text in missing else known.setdefault(text, text) for text in column]
        return np.array([*words, None], dtype=object)[:-1]
    elif decision.decimal != "," and decision.type == "number" and (quick := cells.plain(column)) is not None:
        values = quick
    else:
        values = np.full(len(column), np.nan)
        there = [place for place, text in enumerate(column) if text is not None and text not in missing]
        there = [place for place in there if column[place].casefold() not in cells.AMONG_NUMBERS]
        if there:
            values[there] = decision.parse([column[place] for place in there])
    if numbers and decision.type == "number":
        values = np.where(np.isin(values, numbers), np.nan, values)
    return np.array(values, dtype=np.float64)


def _shown(cell: Any, decision: Decision) -> str | None:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return None
    if isinstance(cell, str):
        return cell[:CUT]
    return str(np.datetime64(int(cell), "s")) if decision.type == "date" else f"{cell:g}"


def _described(
    source: _Source, summaries: Sequence[Summary], first: list[list[str | None]], repeated: Sequence[str]
) -> Description:
    rows = summaries[0].rows
    if not rows:
        raise UnusableFile("the table has no rows")
    found = [summary.column(name) for name, summary in zip(source.names, summaries, strict=True)]
    columns = _without_index(source, found, rows)
    width = _width(source, columns)
    notes = [*source.notes, *repeated]
    if any("decimal comma" in one.why for one in found):
        notes.append("numbers have a decimal comma; where that is wrong, `decimal` is '.'")
    notes += [f"{one.name!r} has no name and no values: left out" for one in columns[width:]]
    for column, summary in zip(columns[:width], summaries, strict=False):
        notes += _notes(column, rows, said=summary.said)
        notes += [f"{column.name[:CUT]!r} {remark}" for remark in summary.remarks() if not column.left_out]
    if sum(not one.left_out for one in columns) < 2 and len(columns[:width]) < 2:
        raise UnusableFile("the table has one column; needed are a target and at least one more to learn from")
    return Description(
        rows=rows,
        columns=columns[:width],
        header=source.header,
        first=[row[:width] for row in first],
        notes=notes if len(notes) <= NOTES else [*notes[:NOTES], f"and {len(notes) - NOTES} more, at their columns"],
        read_as=source.read_as,
        reader=READER,
    )


def _without_index(source: _Source, columns: list[Column], rows: int) -> list[Column]:
    """The columns, with pandas' unnamed indices at the front marked as left out."""
    made = list(columns)
    for place, column in enumerate(columns):
        counts = column.type == "number" and column.whole and not column.missing
        counts = counts and (column.distinct is None or column.distinct * 4 > rows)  # flags or classes are no index
        names = column.type == "text" and not column.missing and column.distinct in (None, rows)
        parquet = column.name.startswith("__index_level_")
        if not source.header or not UNNAMED.fullmatch(column.name) or not (counts or names or parquet):
            break
        why = "an index without a name: left out, because it says nothing"
        made[place] = column.model_copy(update={"left_out": True, "why": why})
    return made


def _width(source: _Source, columns: Sequence[Column]) -> int:
    """How many columns there are without those at the end that have neither name nor values."""
    width = len(columns)
    while width > 2 and columns[width - 1].type == "empty":
        name = columns[width - 1].name
        if source.header and not UNNAMED.fullmatch(name):
            break
        width -= 1
    return width


def _notes(column: Column, rows: int, *, said: bool) -> Iterator[str]:
    name = column.name[:CUT]
    present = rows - column.missing
    if column.type == "empty":
        yield f"{name!r} has no values: it says nothing, and is left out"
    elif column.left_out or said:
        yield f"{name!r}: {column.why}"
    if column.unfit:
        yield f"{name!r} cannot be trained on: {column.unfit}"
    if column.type == "empty" or column.left_out:
        return
    if present <= max(1, rows // 50):
        many = f"{present} value{'s' if present > 1 else ''} in {rows} row{'s' if rows > 1 else ''}"
        yield f"{name!r} has {many}, so it says next to nothing; it is used all the same"
    elif column.distinct == 1:
        yield f"{name!r} is the same in every row: it says nothing, and is used all the same"
    elif column.type == "text" and column.distinct == rows > 20:
        yield f"{name!r} is another word in every row, so it says nothing; it is used all the same"
