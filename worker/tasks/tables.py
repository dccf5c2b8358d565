"""Reading a table: CSV (separator and header found out) or Parquet, and the column that is the target."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrtune.errors import TaskError
from lrtune.uploads.tables import separator
from worker.tasks.files import reading

MISSING = ["?"]  # beside pandas' own: how the UCI repository writes it
LOOKED_AT = 1000  # rows that tell whether the first is a header
SHOWN = 40  # column names that an error lists


def read_table(path: Path, name: str, *, header: bool | None, target: str | int) -> pd.DataFrame:
    """A table with string column names; columns of a file without a header are called 0, 1, 2 ..."""
    if path.suffix in (".parquet", ".pq"):
        with reading(name, "Parquet"):
            table = pd.read_parquet(path)
    else:
        with reading(name, "CSV"):
            table = _read_csv(path, header=header, target=target)
    if table.empty:
        raise TaskError(f"dataset: {name!r} has no rows")
    return table.set_axis([str(column) for column in table.columns], axis=1)


def _read_csv(path: Path, *, header: bool | None, target: str | int) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        mark = separator(file.readline())

    def read(*, first: int | None, rows: int | None = None, text: bool = False) -> pd.DataFrame:
        return pd.read_csv(
            path,
            sep=mark,
            header=first,
            nrows=rows,
            dtype=str if text else None,
            na_values=MISSING,
            skipinitialspace=True,
            index_col=False,  # or a comma at the end of each row turns the first column into names of rows
            encoding="utf-8-sig",
            low_memory=False,
        )

    if header is None:
        header = _has_header(read(first=None, rows=LOOKED_AT, text=True), target)
    return read(first=0 if header else None)


def _has_header(start: pd.DataFrame, target: str | int) -> bool:
    """Whether the first row names the columns: it has the target's name, or no number and no value seen below it."""
    first = start.iloc[0]
    if isinstance(target, str) and target in first.to_numpy():
        return True
    number = pd.to_numeric(first, errors="coerce").notna().any()
    below = any(
        first[column] in start[column].iloc[1:].to_numpy() for column in start.columns if pd.notna(first[column])
    )
    return len(start) > 1 and not number and not below


def split_target(table: pd.DataFrame, target: str | int) -> tuple[pd.DataFrame, "pd.Series[Any]"]:
    """The features and the target, without the rows whose target is missing."""
    name = _column(table, target)
    kept = table[table[name].notna()]
    if kept.empty:
        raise TaskError(f"target: the column {name!r} has no values")
    features = kept.drop(columns=[name])
    if features.columns.empty:
        raise TaskError(f"target: {name!r} is the only column; at least one more is needed to learn from")
    return features, kept[name]


def _column(table: pd.DataFrame, target: str | int) -> str:
    """The name of the target's column."""
    columns = list(table.columns)
    if isinstance(target, str) and target in columns:
        return target
    if isinstance(target, int) and -len(columns) <= target < len(columns):
        return columns[target]
    names = ", ".join(columns[:SHOWN]) + (", ..." if len(columns) > SHOWN else "")
    raise TaskError(
        f"target: found {target!r}; accepted is one of the columns {names}, "
        f"or a position from {-len(columns)} to {len(columns) - 1}"
    )


def numeric(table: pd.DataFrame) -> list[str]:
    """The columns that are numbers or flags; all others are categories."""
    return [name for name in table.columns if pd.api.types.is_numeric_dtype(table[name])]


def finite(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as floats with infinities missing, categories as plain text."""
    numbers = table[numeric(table)].astype(float).replace([np.inf, -np.inf], np.nan)
    words = table.drop(columns=numbers.columns)
    words = words.map(str, na_action="ignore").astype(object)
    return pd.concat([numbers, words.where(words.notna(), np.nan)], axis=1)
