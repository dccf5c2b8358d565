"""A dataset to measure on is read as the one to train on is, or refused in words: by the server and by the worker."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrtune.errors import TaskError, UnusableFile
from lrtune.uploads.summaries import key
from lrtune.uploads.tables import read
from lrtune.wire.job import TaskSpec
from tests.table_kinds import A, N, Y, rows
from worker.tasks import prepare
from worker.tasks.supervised import Supervised


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


# Which rows are measured on -------------------------------------------------------------------------------------------


def halves(folder: Path, content: bytes, validation: Any) -> tuple[int, int, str]:
    """How many rows are trained on, how many are measured on, and what the job's log says."""
    (folder / "split.csv").write_bytes(content)
    task = prepare(TaskSpec(name="tabular", params={"dataset": "split.csv", "validation": validation}), folder)
    assert isinstance(task, Supervised)
    return len(task.train[1]), len(task.validation[1]), " ".join(task.notes)


FLAGS = [1] * 36 + [0] * 12


@pytest.mark.parametrize("one", [{1: "1", 0: "0"}, {1: "true", 0: "false"}, {1: "Yes", 0: "No"}])
@pytest.mark.parametrize("name", ["is_train", "train", "Training set", "isTrain", "train_mask"])
def test_what_a_column_named_for_training_marks_is_trained_on(tmp_path: Path, name: str, one: dict[int, str]) -> None:
    *sizes, said = halves(tmp_path, rows(f"a,{name},y", A, [one[flag] for flag in FLAGS], Y), {"column": name})
    assert sizes == [36, 12]
    assert "validated on: 12 of 48" in said


@pytest.mark.parametrize("name", ["is_valid", "test", "holdout", "in_validation", "is-test"])
def test_what_a_column_named_for_measuring_marks_is_measured_on(tmp_path: Path, name: str) -> None:
    assert halves(tmp_path, rows(f"a,{name},y", A, FLAGS, Y), {"column": name})[:2] == (12, 36)


@pytest.mark.parametrize("name", ["s", "train_or_test", "flag"])
def test_flags_whose_column_says_nothing_ask_for_the_value(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match="say with `value` which"):
        halves(tmp_path, rows(f"a,{name},y", A, FLAGS, Y), {"column": name})
    assert halves(tmp_path, rows(f"a,{name},y", A, FLAGS, Y), {"column": name, "value": 0})[:2] == (36, 12)


def test_a_moment_is_on_one_side(tmp_path: Path) -> None:
    years = [2000 + i // 12 for i in range(N)]
    *sizes, said = halves(tmp_path, rows("a,year,y", A, years, Y), {"last": 0.2, "by": "year"})
    assert sizes == [36, 12]
    assert "by 'year' are validated on, from 2003 on" in said


def test_two_columns_of_dates_ask_for_the_one_of_the_time(tmp_path: Path) -> None:
    days = [str(day) for day in np.datetime64("2024-01-01") + np.arange(N)]
    with pytest.raises(TaskError, match=r"validation.by: needed.*'s', 't'"):
        halves(tmp_path, rows("a,s,t,y", A, days, days[::-1], Y), {"last": 0.2})


def test_a_dataset_is_not_measured_on_itself(tmp_path: Path) -> None:
    (tmp_path / "copy.csv").write_bytes(rows("a,b,y", A, A, Y))
    for name in ("split.csv", "copy.csv"):
        with pytest.raises(TaskError, match=r"validation.dataset: it (is|has the rows of) the dataset to train on"):
            halves(tmp_path, rows("a,b,y", A, A, Y), {"dataset": name})
    (tmp_path / "copy.csv").write_bytes(rows("a,b,y", A[:24], A[:24], Y[:24]))
    said = halves(tmp_path, rows("a,b,y", A, A, Y), {"dataset": "copy.csv"})[2]
    assert "24 of the 24 rows to validate on are rows to train on as well" in said


def test_new_classes_are_found_however_many_there_are(tmp_path: Path) -> None:
    names = [f"class {i % 22}" for i in range(88)]
    (tmp_path / "other.csv").write_bytes(rows("a,y", range(88), [*names[:-1], "new"]))
    with pytest.raises(TaskError, match="'y' has 'new' there, which no row to train on has"):
        halves(tmp_path, rows("a,y", range(88), names), {"dataset": "other.csv"})


@pytest.mark.parametrize(
    ("years", "first", "last"),
    [(range(60, 80), 1960, 1979), (range(24, 34), 2024, 2033), (range(30, 46), 1930, 1945), (range(100), 1936, 2035)],
)
def test_years_of_two_digits_are_not_cut_between_centuries(tmp_path: Path, years: range, first: int, last: int) -> None:
    days = [f"{1 + i % 12}/{13 + i % 9}/{year:02}" for i, year in enumerate(years)]
    (tmp_path / "old.csv").write_bytes(rows("a,b", range(5, 5 + len(days)), days))
    table = read(tmp_path / "old.csv")
    found = table.values["b"].astype("datetime64[s]").astype("datetime64[Y]").astype(int) + 1970
    assert (found.min(), found.max()) == (first, last)
    assert "of the years" in " ".join(table.description.notes)


def test_long_whole_numbers_stay_apart_as_groups() -> None:
    assert len(set(key(np.array([4503599627370496.0, 4503599627370497.0, 0.5, 1e300])))) == 4


def test_flags_without_a_name_are_no_index(tmp_path: Path) -> None:
    (tmp_path / "flags.csv").write_bytes(rows(",a,y", [0, 1] * 24, A, Y))
    assert not read(tmp_path / "flags.csv").description.columns[0].left_out
