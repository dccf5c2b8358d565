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
    train, validation = _split(params, table, target, kept[:first])
    if other:
        train, validation = np.arange(first), np.arange(first, len(kept))
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
    notes = tuple(fitness.notes(params, table.description))
    return Data(numbers, words, values[kept], target, train, validation, notes)


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


def _split(params: TabularParams, table: Table, target: Column, kept: Rows) -> tuple[Rows, Rows]:
    """Which of the kept rows to train on and which to validate on, by their place among them."""
    split, labels = params.validation, table.values[target.name][kept]
    if not isinstance(split, Split):
        classes = fitness.is_classes(target, params.kind)
        return halves(np.array(key(labels)) if classes else labels, split, stratify=classes)
    if split.column is not None:
        return _marked(table, split, kept)
    if split.groups is not None:
        return _groups(table.values[split.groups][kept], split)
    order = np.arange(len(kept))
    if split.last is not None and (by := fitness.time_of(table.description, params)):
        order = np.argsort(np.nan_to_num(table.values[by][kept], nan=-np.inf), kind="stable")
    held = max(1, round(len(kept) * (split.last or SHARE)))
    if held >= len(kept):
        raise TaskError(f"validation.last: found {split.last:g} of {len(kept)} rows; one must be left to train on")
    return np.sort(order[:-held]), np.sort(order[-held:])


def _marked(table: Table, split: Split, kept: Rows) -> tuple[Rows, Rows]:
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
    return train, validation


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
