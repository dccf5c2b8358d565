"""Tables: what is found out about a file, what is made of its columns, and what is said about a bad one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lrtune.errors import TaskError
from lrtune.wire.job import TaskSpec
from worker.tasks import prepare
from worker.tasks.supervised import Supervised

ADULT = """\
39, State-gov, 77516, Bachelors, 13, Male, 2174, United-States, <=50K
50, ?, 83311, Bachelors, 13, Male, 0, United-States, >50K
38, Private, 215646, HS-grad, 9, Female, 0, ?, <=50K
53, Private, ?, 11th, 7, Male, 0, Cuba, >50K
"""
WINE = "7;0.27;0.36;20.7;6\n6.3;0.3;0.34;1.6;5\n8.1;0.28;0.4;6.9;6\n7.2;0.23;0.32;8.5;7\n"
WINE_NAMES = '"fixed acidity";"volatile acidity";"citric acid";"residual sugar";"quality"\n'


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def table(tmp_path: Path):
    def prepared(content: str | bytes | pd.DataFrame, **params) -> Supervised:
        name = "table.parquet" if isinstance(content, pd.DataFrame) else "table.csv"
        if isinstance(content, pd.DataFrame):
            content.to_parquet(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        task = prepare(TaskSpec(name="tabular", params={"dataset": name} | params), tmp_path)
        assert isinstance(task, Supervised)
        return task

    return prepared


def rows(task: Supervised) -> int:
    return len(task.train[1]) + len(task.validation[1])


def classes(task: Supervised) -> int:
    return task.model()[-1].out_features


def test_a_file_like_uci_adult_has_no_header_and_its_last_column_is_the_target(table):
    task = table(ADULT * 10)
    assert (rows(task), classes(task)) == (40, 2)
    assert task.metrics == ("val_loss", "val_accuracy")
    # 4 numbers that vary or not, 1 flag for the missing one, and one place each for words, "missing" among them
    assert task.train[0].shape == (32, 4 + 1 + (3 + 3 + 2 + 3))
    assert torch.isfinite(task.train[0]).all()


def test_a_header_is_found_by_itself_and_its_names_are_targets(table):
    names = "age,work,weight,school,years,sex,gain,land,income\n"
    assert (rows(table(names + ADULT * 10, target="income")), rows(table(names + ADULT * 10))) == (40, 40)


@pytest.mark.parametrize(("names", "target"), [("", -1), (WINE_NAMES, -1), (WINE_NAMES, "quality"), (WINE_NAMES, 4)])
def test_a_file_like_uci_wine_is_read_with_and_without_its_names(names: str, target, table):
    task = table(names + WINE * 10, target=target)
    assert (rows(task), classes(task), task.train[0].shape[1]) == (40, 3, 4)


def test_a_table_of_words_alone_has_a_header_when_its_first_row_never_comes_again(table):
    words = "p,x,s\ne,x,y\ne,b,w\np,x,y\n" * 5
    assert rows(table(words, target=0)) == 20
    assert rows(table("class,cap,colour\n" + words, target=0)) == 20


def test_what_the_header_is_can_be_said(table):
    numbers = "1,2,3\n" + "4,5,0\n4,6,1\n" * 10
    assert (rows(table(numbers, header=True)), rows(table(numbers, header=False))) == (20, 21)


def test_a_few_whole_numbers_are_classes_and_many_numbers_are_not(table):
    few = "".join(f"{i},{i % 7}\n" for i in range(100))
    many = "".join(f"{i},{i * 1.5}\n" for i in range(100))
    assert table(few).metrics == ("val_loss", "val_accuracy")
    assert table(many).metrics == ("val_loss", "val_mae")
    assert table(few, kind="regression").metrics == ("val_loss", "val_mae")


def test_a_regression_target_is_standardised_and_its_error_is_in_the_targets_own_unit(table):
    task = table("".join(f"{i % 10},{1000 + i}\n" for i in range(100)))
    train = task.train[1]
    assert (train.mean().item(), train.std(unbiased=False).item()) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    nothing = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(nothing.weight)
    torch.nn.init.zeros_(nothing.bias)
    with torch.no_grad():
        measured = task.evaluate(nothing)
    assert 15 < measured["val_mae"] < 40


def test_transformers_are_fitted_on_the_training_rows_alone(table):
    task = table("".join(f"{i * i},{i % 2}\n" for i in range(50)))
    assert task.train[0][:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert abs(task.validation[0][:, 0].mean().item()) > 0.01


def test_rows_without_a_target_are_left_out_and_empty_or_infinite_features_are_filled(table):
    lines = "".join(f"{'inf' if i == 3 else i},,{'' if i % 5 == 0 else 'ab'[i % 2]}\n" for i in range(50))
    task = table(lines)
    assert rows(task) == 40
    assert torch.isfinite(task.train[0]).all()


def test_parquet_with_flags_categories_dates_and_missing_words(table):
    frame = pd.DataFrame(
        {
            "flag": [True, False] * 10,
            "word": pd.Categorical(["a", None, "b", "a"] * 5),
            "day": pd.date_range("2026-01-01", periods=20),
            "whole": pd.array([1, None, 3, 4] * 5, dtype="Int64"),
            "y": ["no", "yes"] * 10,
        }
    )
    task = table(frame, target="y")
    assert (rows(task), classes(task)) == (20, 2)
    assert torch.isfinite(task.train[0]).all()


def test_a_class_with_a_single_member_does_not_break_the_split(table):
    assert classes(table("".join(f"{i},{'ab'[i % 2]}\n" for i in range(30)) + "5,c\n")) == 3


BAD = {
    "an empty file": ("", {}, "could not be read as CSV"),
    "a header alone": ("a,b\n", {"header": True}, "a header and no rows below it"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\xff" * 20, {}, "could not be read as CSV"),
    "ragged rows": ("1,2\n" * 5 + "1,2,3,4\n" * 5, {}, "could not be read as CSV"),
    "too few rows": ("1,2,a\n3,4,b\n", {"header": False}, "has 2 rows with a target; 10 are needed"),
    "an unknown name": ("a,b\n" + "1,x\n2,y\n" * 9, {"target": "c"}, "found 'c'; accepted is one of the columns a, b,"),
    "an unknown place": ("1,x\n2,y\n" * 9, {"target": 2}, "found 2; .*columns 0, 1, or a position from -2 to 1"),
    "one class": ("1,x\n2,x\n" * 9, {"header": False}, "'1' is the same in every row .*; nothing can be learned"),
    "no target at all": ("a,b\n" + "1,\n2,\n" * 9, {}, "'b' has no values"),
    "nothing but a target": ("1\n2\n" * 9, {}, "the table has one column"),
    "words to regress": (
        "1,x\n2,y\n" * 9,
        {"kind": "regression"},
        "'1' is not of numbers, but words; regression needs numbers",
    ),
    "an infinite target": (
        "1,2.5\n2,inf\n" * 9,
        {"kind": "regression"},
        "'1' is the same in every row .*9 infinite numbers are taken as missing",
    ),
    "one number": ("1,2.5\n2,2.5\n" * 9, {"kind": "regression"}, "'1' is the same in every row"),
    "numbers as classes": (
        "".join(f"{i},{i}\n" for i in range(2000)),
        {"kind": "classification"},
        "more than 1000 classes, at most 1000",
    ),
    "no rows to train on": ("1,2.5\n2,3.5\n" * 6, {"validation": 0.99}, "at least one row must be left"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused_in_words(name: str, table):
    content, params, words = BAD[name]
    with pytest.raises(TaskError, match=words):
        table(content, **params)


def test_a_broken_parquet_and_a_folder_are_refused_in_words(tmp_path: Path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "folder.csv").mkdir()
    for name in ("broken.parquet", "folder.csv"):
        with pytest.raises(TaskError, match=f"'{name}' could not be read as"):
            prepare(TaskSpec(name="tabular", params={"dataset": name}), tmp_path)


def test_preparing_twice_gives_the_same_numbers(table):
    one, two = table(ADULT * 10, hidden=[3]), table(ADULT * 10, hidden=[4])
    assert np.array_equal(one.train[0], two.train[0])
