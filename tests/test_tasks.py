"""The built-in tasks: what each makes of its data, and that no path leads out of the data directory."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.job import TaskSpec
from worker.tasks import prepare
from worker.tasks.batches import order, per_epoch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def digits(**params) -> Task:
    return prepare(TaskSpec(name="digits", params=params), Path())


def text(folder: Path, content: str | bytes, **params) -> Task:
    (folder / "text.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    params = {"dataset": "text.txt", "context": 8, "width": 8, "heads": 2, "layers": 1} | params
    return prepare(TaskSpec(name="text", params=params), folder)


def test_digits_is_split_once_and_for_all_into_1000_and_797():
    task = digits()
    assert [len(y) for _, y in (task.train, task.validation)] == [1000, 797]
    train, validation = (y.bincount() / len(y) for _, y in (task.train, task.validation))
    assert torch.allclose(train, validation, atol=0.002)  # every digit in proportion
    assert (task.metrics, task.steps_per_epoch) == (("val_loss", "val_accuracy"), 31)


def test_the_noise_of_digits_is_part_of_the_data():
    (one, _), (again, _), (clean, _) = digits(noise=0.5).train, digits(noise=0.5).train, digits().train
    assert torch.equal(one, again)
    assert (one - clean).std().item() == pytest.approx(0.5, abs=0.01)


def test_each_epoch_is_a_new_permutation_that_the_seed_decides():
    first = torch.cat(list(islice(order(10, 5, seed=1, device=CPU), 4)))
    assert sorted(first[:10].tolist()) == sorted(first[10:].tolist()) == list(range(10))
    assert first[:10].tolist() != first[10:].tolist()
    assert torch.equal(first, torch.cat(list(islice(order(10, 5, seed=1, device=CPU), 4))))
    assert not torch.equal(first, torch.cat(list(islice(order(10, 5, seed=2, device=CPU), 4))))


@pytest.mark.parametrize(
    ("batch_size", "drawn", "steps"), [("full", 10, 1), (10, 10, 1), (99, 10, 1), (4, 4, 2), (1, 1, 10)]
)
def test_a_last_partial_batch_is_dropped_unless_it_is_the_only_one(batch_size, drawn: int, steps: int):
    sizes = {len(places) for places in islice(order(10, batch_size, seed=0, device=CPU), 5)}
    assert (sizes, per_epoch(10, batch_size)) == ({drawn}, steps)


@pytest.mark.parametrize("batch_size", [1, "full"])
def test_one_example_at_a_time_and_all_at_once_both_give_a_loss(batch_size):
    task = digits(batch_size=batch_size)
    assert task.loss(task.model(), next(task.batches(0))).item() == pytest.approx(2.3, abs=0.3)


def test_a_task_is_prepared_once_for_many_trials_and_again_when_its_file_changes(tmp_path: Path):
    first = text(tmp_path, "abcdefgh" * 50)
    params = {"dataset": "text.txt", "context": 8, "width": 8, "heads": 2, "layers": 1}
    assert prepare(TaskSpec(name="text", params=params), tmp_path) is first
    assert text(tmp_path, "ijklmnop" * 60) is not first


def test_parameters_are_checked_again_where_they_are_used():
    with pytest.raises(TaskError, match=r"task digits: batch_size.*hiden: Extra inputs are not permitted"):
        digits(batch_size=-1, hiden=[3])
    with pytest.raises(TaskError, match="found 'mnist'; accepted is one of digits, tabular, images, text"):
        prepare(TaskSpec(name="mnist"), Path())


@pytest.mark.parametrize(("name", "file"), [("tabular", "t.csv"), ("images", "i.npz"), ("text", "t.txt")])
def test_a_missing_file_is_named(name: str, file: str, tmp_path: Path):
    (tmp_path / "other.csv").touch()
    with pytest.raises(TaskError, match=f"there is no '{file}' below LRTUNE_DATA_DIR; there are other.csv"):
        prepare(TaskSpec(name=name, params={"dataset": file}), tmp_path)


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "a/../../secret.txt"])
def test_a_path_cannot_climb_out(path: str, tmp_path: Path):
    (tmp_path / "secret.txt").write_text("secret " * 1000)
    (tmp_path / "data").mkdir()
    with pytest.raises(TaskError, match="accepted is a path below LRTUNE_DATA_DIR"):
        prepare(TaskSpec(name="text", params={"dataset": path}), tmp_path / "data")


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_cannot_lead_out_and_one_that_stays_inside_may_be_followed(link: str, tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "text.txt").write_text("secret " * 1000)
    (data / "file").symlink_to(tmp_path / "text.txt")
    (data / "folder").symlink_to(tmp_path)
    dataset = {"file": "file", "folder": "folder/text.txt"}[link]
    with pytest.raises(TaskError, match="leads out of LRTUNE_DATA_DIR"):
        prepare(TaskSpec(name="text", params={"dataset": dataset}), data)
    assert prepare(TaskSpec(name="text", params={"dataset": "data/file"}), tmp_path).steps_per_epoch > 0


def test_a_loop_of_links_is_an_error_in_words(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(TaskError, match="dataset: 'a'"):
        prepare(TaskSpec(name="text", params={"dataset": "a"}), tmp_path)


def test_a_text_is_learned_window_by_window_and_its_last_part_is_for_validation(tmp_path: Path):
    task = text(tmp_path, "abcd" * 200 + "wxyz" * 25, validation=100 / 900, batch_size=10)
    assert (task.letters, task.metrics) == (8, ("val_loss",))
    assert task.steps_per_epoch == (800 - 1) // 8 // 10
    assert (task.train.max().item(), task.validation.min().item()) == (3, 4)
    windows = next(task.batches(0))
    assert windows.shape == (10, 9)
    assert task.loss(task.model(), windows).item() == pytest.approx(np.log(8), abs=0.1)


def test_the_gpt_does_not_see_what_comes_after(tmp_path: Path):
    model = text(tmp_path, "abcd" * 200).model().eval()
    before, after = torch.zeros(2, 1, 8, dtype=torch.long)
    after[0, 5:] = 3
    one, two = model(before), model(after)
    assert torch.equal(one[:, :5], two[:, :5])
    assert not torch.equal(one[:, 5:], two[:, 5:])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has 0 characters"),
        ("abc" * 5, "9 in the training and in the validation part"),
        ("a" * 900, "1 of them different"),
        (b"\xff\xfe\x00" * 300, "could not be read as UTF-8 text"),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_refused_in_words(content, words: str, tmp_path: Path):
    with pytest.raises(TaskError, match=words):
        text(tmp_path, content)


def test_heads_must_divide_the_width(tmp_path: Path):
    with pytest.raises(TaskError, match="found 3 heads; accepted is a divisor of width 8"):
        text(tmp_path, "abcd" * 100, heads=3)
