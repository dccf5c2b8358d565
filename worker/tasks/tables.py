"""A table as a job wants it: read as the server reads it, checked as the server checks it, its rows split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit

from lrtune.errors import TaskError, UnusableFile
from lrtune.uploads import fitness
from lrtune.uploads.options import Options
from lrtune.uploads.summaries import date_parts, key
from lrtune.uploads.tables import Table, read
from lrtune.wire.datasets import Column
from lrtune.wire.tasks import Split, TabularParams
from worker.tasks.files import locate, reading
from worker.tasks.supervised import SPLIT_SEED, halves

Rows = NDArray[np.intp]
SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Data:
    """Rows that have a target: numbers (NaN is missing), words (None is missing), the target, and who is trained on."""

    numbers: dict[str, NDArray[np.float64]]
    words: dict[str, NDArray[Any]]
    target: NDArray[Any]
    column: Column
    train: Rows
    validation: Rows
    notes: tuple[str, ...] = ()


def prepared(params: TabularParams, data_dir: Path) -> Data:
    """The data of a job. Raises TaskError for what cannot be learned from."""
    table = _read(params, params.dataset, data_dir, "dataset")
    split = params.validation
    named = split.dataset if isinstance(split, Split) else None
    other = _read(params, named, data_dir, "validation", like=table) if named else None
    found = fitness.wrong(params, table.description, other.description if other else None)
    for one in found or (fitness.unseen(params, table, other) if other else []):
        field = one["pointer"].strip("/").replace("/", ".")
        about = f"{params.dataset!r}: " if field == "dataset" else ""
        raise TaskError(f"{field}: {about}{one['detail']}")
    target = _column(table, params.target)
    tables = [table, *([other] if other else [])]
    values = _joined(tables, target.name)
    kept = np.flatnonzero([value is not None for value in values] if values.dtype == object else ~np.isnan(values))
    first = int(np.searchsorted(kept, len(table.values[target.name])))
    train, validation, notes = _split(params, table, target, kept[:first])
    if other:
        train, validation = np.arange(first), np.arange(first, len(kept))
        notes = ()
    numbers: dict[str, NDArray[np.float64]] = {}
    words: dict[str, NDArray[Any]] = {}
    for column in fitness.features(table.description, params):
        cells = _joined(tables, column.name)[kept]
        if cells.dtype == object:
            words[column.name] = cells
        elif column.type == "date":
            numbers |= {f"{column.name}: {part}": part_of for part, part_of in date_parts(cells, column.parts).items()}
        else:
            numbers[column.name] = cells
    notes = (*notes, *fitness.notes(params, table.description))
    if other:
        notes += _in_both([*numbers.values(), *words.values(), values[kept]], first)
    return Data(numbers, words, values[kept], target, train, validation, notes)


def _in_both(columns: Sequence[NDArray[Any]], first: int) -> tuple[str, ...]:
    """What is to be said where many rows to validate on are rows to train on. Raises TaskError where all are."""
    rows = list(zip(*(key(one.tolist()) if one.dtype != object else one.tolist() for one in columns), strict=True))
    trained, held = set(rows[:first]), rows[first:]
    both = sum(row in trained for row in held)
    if rows[:first] == held:
        raise TaskError("validation.dataset: it has the rows of the dataset to train on; accepted is another one")
    return (
        (f"{both} of the {len(held)} rows to validate on are rows to train on as well",)
        if both * 10 >= len(held)
        else ()
    )


def _read(params: TabularParams, name: str, data_dir: Path, field: str, *, like: Table | None = None) -> Table:
    path = locate(data_dir, name, field=field)
    form = "Parquet" if path.suffix in (".parquet", ".pq") else "CSV"
    with reading(name, form, field=field):
        try:
            return read(path, Options.of(params), like=like)
        except UnusableFile as error:
            raise TaskError(f"{field}: {name!r} could not be read as {form}: {error}") from None


def _column(table: Table, name: str | int) -> Column:
    found = fitness.column_of(table.description, name)
    if found is None:
        raise TaskError(f"there is no column {name!r}")
    return found


def _joined(tables: Sequence[Table], name: str) -> NDArray[Any]:
    """A column of one table, or of the one to train on and the one to validate on; an empty one fits any."""
    found = [table.values[name] for table in tables]
    if len({one.dtype for one in found}) > 1:
        kind = found[0].dtype
        gone: Any = None if kind.hasobject else np.nan
        found = [one if one.dtype == kind else np.full(len(one), gone, dtype=kind) for one in found]
    return np.concatenate(found)


def _split(params: TabularParams, table: Table, target: Column, kept: Rows) -> tuple[Rows, Rows, tuple[str, ...]]:
    """Which of the kept rows to train on and which to validate on, by their place among them, and what to say of it."""
    split, labels = params.validation, table.values[target.name][kept]
    if not isinstance(split, Split):
        classes = fitness.is_classes(target, params.kind)
        return *halves(np.array(key(labels)) if classes else labels, split, stratify=classes), ()
    if split.column is not None:
        return _marked(table, split, kept)
    if split.groups is not None:
        return *_groups(table.values[split.groups][kept], split), ()
    return _last(params, split, table, kept)


def _last(params: TabularParams, split: Split, table: Table, kept: Rows) -> tuple[Rows, Rows, tuple[str, ...]]:
    """The last rows in time; rows of one moment stay together."""
    order = np.arange(len(kept))
    held = max(1, round(len(kept) * (split.last or SHARE)))
    if held >= len(kept):
        raise TaskError(f"validation.last: found {split.last:g} of {len(kept)} rows; one must be left to train on")
    by, cut = fitness.time_of(table.description, params), len(kept) - held
    said = f"the last {held} of {len(kept)} rows, as the file has them, are validated on"
    if by:
        times = np.nan_to_num(table.values[by][kept], nan=-np.inf)
        order = np.argsort(times, kind="stable")
        ends = [int(np.searchsorted(times[order], times[order[cut]], side)) for side in ("left", "right")]
        ends = [end for end in ends if 0 < end < len(kept)]
        if not ends:
            raise TaskError(f"validation.last: {by!r} is the same in too many rows; some must be left on both sides")
        cut = min(ends, key=lambda end: abs(end - cut))
        date = _column(table, by).type == "date"
        at = times[order[cut]]
        begun = str(np.datetime64(int(at), "s")) if date else key([at])[0]
        said = f"the last {len(kept) - cut} of {len(kept)} rows by {by!r} are validated on, from {begun} on"
    return np.sort(order[:cut]), np.sort(order[cut:]), (said,)


def _marked(table: Table, split: Split, kept: Rows) -> tuple[Rows, Rows, tuple[str, ...]]:
    column = _column(table, str(split.column))
    said = fitness.sides(column, split)
    if isinstance(said, str):
        raise TaskError(f"validation.column: {said}")
    cells = table.values[column.name][kept]
    gone = np.array([cell is None for cell in cells]) if cells.dtype == object else np.isnan(cells)
    marks = np.array(key(np.where(gone, "", cells) if cells.dtype == object else cells), dtype=object)
    train = np.flatnonzero(gone | np.isin(marks, list(said.train)))
    validation = np.flatnonzero(~gone & np.isin(marks, list(said.validation)))
    if not len(train) or not len(validation):
        raise TaskError(f"validation.column: {column.name!r} leaves no row with a target on one of the two sides")
    held = ", ".join(sorted(said.validation))
    return (
        train,
        validation,
        (f"rows whose {column.name!r} is {held} are validated on: {len(validation)} of {len(kept)}",),
    )


def _groups(groups: NDArray[Any], split: Split) -> tuple[Rows, Rows]:
    """Whole groups on one side; rows without a group are trained on."""
    gone = np.array([one is None for one in groups]) if groups.dtype == object else np.isnan(groups)
    rows = np.flatnonzero(~gone)
    names = np.array(key(groups[rows]))
    if len(set(names)) < 2:
        raise TaskError(f"validation.groups: {split.groups!r} has one group in the rows with a target; two are needed")
    share = split.share or SHARE
    held = min(max(1, round(share * len(set(names)))), len(set(names)) - 1)
    parts = next(GroupShuffleSplit(1, test_size=held, random_state=SPLIT_SEED).split(names, groups=names))
    validation: Rows = rows[parts[1]]
    return np.setdiff1d(np.arange(len(groups)), validation), validation
