"""A dataset to measure on is read as the one to train on is, or refused in words: by the server and by the worker."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrtune.errors import UnusableFile
from lrtune.uploads.tables import read
from tests.table_kinds import rows


def alike(folder: Path, train: bytes, other: bytes | pd.DataFrame, name: str = "b") -> list[Any]:
    """The column of the second table, read as the first one is."""
    (folder / "train.csv").write_bytes(train)
    path = folder / ("other.csv" if isinstance(other, bytes) else "other.parquet")
    if isinstance(other, pd.DataFrame):
        made = io.BytesIO()
        other.to_parquet(made)
        other = made.getvalue()
    path.write_bytes(other)
    return list(read(path, like=read(folder / "train.csv")).values[name])


def day(text: str) -> float:
    return float(np.datetime64(text, "s").astype(float))


def column(*values: object, mark: str = ",") -> bytes:
    return rows(f"a{mark}b", range(5, 5 + len(values)), values, mark=mark)


def test_dates_are_read_in_the_order_of_the_dataset_to_train_on(tmp_path: Path) -> None:
    found = alike(tmp_path, column("13/1/2023", "14/2/2023"), column("1/1/2023", "2/6/2023", "3/11/2023"))
    assert found == [day("2023-01-01"), day("2023-06-02"), day("2023-11-03")]


def test_thousands_are_read_as_in_the_dataset_to_train_on(tmp_path: Path) -> None:
    train = column('"1,500.5"', '"2,500.5"')
    assert alike(tmp_path, train, rows("a;b;c", [1, 2], ["1,500", "2,750"], ["0,5", "1,25"], mark=";")) == [1500, 2750]


def test_a_decimal_comma_is_taken_where_the_dataset_to_train_on_has_no_mark(tmp_path: Path) -> None:
    assert alike(tmp_path, column(1, 2, 3), column("1,5", "2,25", mark=";")) == [1.5, 2.25]


@pytest.mark.parametrize(("train", "other"), [(("true", "false"), (1, 0)), ((1, 0), ("True", "False"))])
def test_true_and_false_are_1_and_0(tmp_path: Path, train: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert alike(tmp_path, column(*train * 5), column(*other)) == [1, 0]
    assert alike(tmp_path, column(*train * 5), pd.DataFrame({"a": [1, 2], "b": [True, False]})) == [1, 0]


def test_whole_numbers_become_words_exactly(tmp_path: Path) -> None:
    train = column("x0", "1234568", "x1", "7")
    assert alike(tmp_path, train, pd.DataFrame({"a": [1, 2], "b": [1234567, 7]})) == ["1234567", "7"]
    assert alike(tmp_path, train, pd.DataFrame({"a": [1, 2], "b": [1234567, None]})) == ["1234567", None]


@pytest.mark.parametrize(
    ("train", "other", "words"),
    [
        (column("5 kg", "7 kg"), column("5000 g", "7000 g"), "'b' is numbers: in 'kg' in the dataset to train on"),
        (column("12 %", "15 %"), column("12", "15"), "per cent"),
        (column("$12", "$15"), column("12 €", "15 €"), "money"),
        (column("2/1/2023", "3/14/2023"), column("13/1/2023", "14/2/2023"), "row 1 (line 2 of the file): '13/1/2023'"),
        (column(*["3/14/2023"] * 30), column(*["3/1/2023"] * 29, "14/3/2023"), "'14/3/2023'"),
        (column("true", "false"), column(5, 7), "'b' is true or false in the dataset to train on"),
        (column("true", "false"), pd.DataFrame({"a": [1, 2], "b": [5, 7]}), "numbers (5, 7) in this one"),
        (column(1, 2, 3), column("u", "v"), "2 of 2 values are not to be read so"),
        (column("x", "y"), pd.DataFrame({"a": [1, 2], "b": pd.to_datetime(["2024-01-01"] * 2)}), "dates, by the file"),
        (column("1:30", "2:30"), pd.DataFrame({"a": [1, 2], "b": [90, 150]}), "spans of time"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(
    tmp_path: Path, train: bytes, other: bytes | pd.DataFrame, words: str
) -> None:
    with pytest.raises(UnusableFile) as raised:
        alike(tmp_path, train, other)
    assert words in str(raised.value)
