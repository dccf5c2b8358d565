"""How examples become batches: the order and the numbers of before, from any position, by whichever way they go."""

import itertools
import os
import pickle
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset, Subset, TensorDataset, default_collate

from lrtune import feeding
from lrtune.errors import TaskError
from lrtune.task import Task
from worker.digest import task_digest


class Params(Task.Params):
    batch_size: int = 4


class Given(Task):
    """A task on the examples that a test gives it."""

    Params = Params

    def __init__(self, examples: Any, *, size: int = 4) -> None:
        super().__init__(Params(batch_size=size))
        self.examples = examples

    def train_set(self):
        return self.examples

    validation_set = train_set

    def model(self):
        return torch.nn.Linear(3, 1)

    def loss(self, model, batch):
        return (model(batch[0]).squeeze(1) - batch[1]).square().mean()

    def by_hand(self, seed: int) -> Iterator[Any]:
        """The batches as they are promised: a permutation by the seed for each epoch, collated one by one."""
        size = min(self._batch_size, len(self.examples))
        for epoch in itertools.count():
            places = list(range(len(self.examples)))
            random.Random(f"{seed}:{epoch}").shuffle(places)
            for start in range(0, len(places) - size + 1, size):
                yield self.collate([self.examples[place] for place in places[start : start + size]])


class Own(Given):
    """One that collates in a way of its own."""

    def collate(self, examples: Sequence[Any]) -> Any:
        return {"all": torch.cat([torch.as_tensor(one[0]).flatten() for one in examples]), "many": len(examples)}


class Reads:
    """Examples that are made when they are asked for, with something random in each, and who made them."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, place: int):
        self.read.append(place)
        return torch.tensor(
            [float(place), random.random(), float(np.random.rand()), float(torch.rand(()))]
        ), os.getpid()


def pairs(count: int) -> list[tuple[torch.Tensor, float]]:
    drawn = torch.Generator().manual_seed(0)
    return [(torch.randn(3, generator=drawn), float(place)) for place in range(count)]


def kinds(count: int) -> dict[str, Any]:
    x, y = torch.stack([one for one, _ in pairs(count)]), torch.arange(count)
    return {
        "tensors": TensorDataset(x, y),
        "a part of them": Subset(TensorDataset(x, y), list(range(count))[::-1]),
        "channels last": TensorDataset(torch.randn(count, 2, 3, 3).to(memory_format=torch.channels_last)),
        "pairs": pairs(count),
        "mappings": [{"x": one, "more": [label, place]} for place, (one, label) in enumerate(pairs(count))],
        "arrays": [(one.numpy(), np.int64(label), label > 1) for one, label in pairs(count)],
        "numbers of two kinds": [(1.0 if place % 2 else 1,) for place in range(count)],
        "texts": [(one, str(label)) for one, label in pairs(count)],
    }


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and one.stride() == two.stride() and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.mark.parametrize("task", [Given, Own])
@pytest.mark.parametrize("kind", kinds(1))
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5), st.integers(0, 30))
@settings(max_examples=12)
def test_batches_are_those_of_the_seed_from_any_position(
    task: type[Given], kind: str, count: int, size: int, seed: int, start: int
):
    found = task(kinds(count)[kind], size=size)
    if task is Own and kind in ("mappings", "numbers of two kinds"):
        return
    before = torch.get_rng_state()
    promised = list(itertools.islice(found.by_hand(seed), start, start + 5))
    assert all(map(same, itertools.islice(found.batches(seed), start, start + 5), promised))
    assert all(map(same, itertools.islice(found.batches_from(seed, start), 5), promised))
    assert torch.equal(torch.get_rng_state(), before), "the training's generator is left alone"


def test_tensors_are_cut_and_what_has_to_be_made_is_read_by_torchs_loader(monkeypatch: pytest.MonkeyPatch):
    cpu = torch.device("cpu")
    cut = {kind for kind, examples in kinds(5).items() if feeding.rows(examples, cpu) is not None}
    assert cut == {"tensors", "a part of them", "pairs", "mappings", "arrays"}
    monkeypatch.setattr(feeding, "SHARE", 0.0)
    fits = {kind for kind, examples in kinds(5).items() if feeding.rows(examples, cpu) is not None}
    assert fits == {"tensors"}, "only what is there as it is needed, where there is no room for a copy"


def test_a_run_that_goes_on_reads_nothing_of_what_it_skips():
    examples = Reads()
    next(Given(examples).batches_from(3, 1_000_001))
    assert len(examples.read) == 4


def test_validation_means_are_those_of_before_to_the_last_bit():
    for examples in (kinds(11)["tensors"], pairs(11)):
        task, total = Given(examples), 0.0
        torch.manual_seed(0)
        model = task.model()
        for start in range(0, 11, 4):
            batch = default_collate([examples[place] for place in range(start, min(start + 4, 11))])
            total += float(task.loss(model, batch).detach()) * len(batch[1])
        assert task.evaluate(model) == {"val_loss": total / 11}


def test_a_task_with_batches_of_its_own_may_still_use_those_it_inherits():
    class Doubled(Given):
        def batches(self, seed):
            for x, y in super().batches(seed):
                yield 2 * x, y

    task = Doubled(pairs(6))
    promised = [(2 * x, y) for x, y in itertools.islice(task.by_hand(1), 3)]
    assert all(map(same, itertools.islice(task.batches_from(1, 1), 2), promised[1:]))


def test_feeding_is_no_part_of_what_a_task_is(tmp_path):
    task = Given(pairs(8))
    task.data_dir = tmp_path  # a folder of too many files has no digest
    before = task_digest(task)
    list(itertools.islice(task.to(torch.device("cpu")).batches(0), 3))
    task.evaluate(task.model().requires_grad_(False))
    assert task_digest(task) == before == task_digest(pickle.loads(pickle.dumps(task)))


class Stream(IterableDataset):
    """Examples without places, though it knows how many."""

    def __iter__(self):
        yield from pairs(8)

    def __len__(self):
        return 8


@pytest.mark.parametrize("examples", [Stream(), iter(pairs(8)), {1, 2}], ids=["stream", "iterator", "set"])
def test_examples_without_places_are_refused_with_what_would_be_accepted(examples: Any):
    with pytest.raises(
        TaskError, match=r"^train_set: found a \w+, .*accepted is .*your own batches\(\) and steps_per_"
    ):
        next(Given(examples).batches(0))
    with pytest.raises(TaskError, match=r"^validation_set: found a \w+, .*accepted is .*your own evaluate\(\)"):
        Given(examples).evaluate(torch.nn.Linear(3, 1))


def test_no_examples_are_said_in_words():
    with pytest.raises(TaskError, match="train_set: found no examples"):
        next(Given([]).batches(0))


def test_processes_that_read_change_nothing_however_many_there_are(monkeypatch: pytest.MonkeyPatch):
    """Real processes: the order, what is random in each example, going on in the middle, and who reads the next run."""
    found, readers = [], []
    for many in (1, 2):
        monkeypatch.setattr(feeding, "readers", lambda *_, many=many: many)
        task = Given(Reads())
        first = [batch for batch, _ in zip(task.batches(5), range(4), strict=False)]
        later = [batch for batch, _ in zip(task.batches_from(5, 2), range(2), strict=False)]
        assert [same(a[0], b[0]) for a, b in zip(first[2:], later, strict=True)] == [True, True]
        found.append([x for x, _ in first])
        readers.append([{int(pid) for _, pids in part for pid in pids} for part in (first, later)])
        assert same([x[:, 0] for x in found[-1]], [x[:, 0] for x, _ in itertools.islice(task.by_hand(5), 4)])
        assert len(task.examples.read) == 16, "by hand, and nothing else here"
    assert same(*found)
    assert [len(first) for first, _ in readers] == [1, 2]
    assert all(later <= first and os.getpid() not in first for first, later in readers), "the same ones, kept"


def test_only_a_gpu_has_processes_that_read_and_not_for_what_they_cannot_be_given(monkeypatch: pytest.MonkeyPatch):
    cuda, plain = torch.device("cuda"), feeding.Batches(pairs(3), default_collate)
    assert feeding.readers(torch.device("cpu"), plain) == 0
    assert 0 <= feeding.readers(cuda, plain) <= feeding.MOST_WORKERS
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    assert feeding.readers(cuda, plain) == feeding.MOST_WORKERS
    assert feeding.readers(cuda, feeding.Batches(pairs(3), lambda examples: examples)) == 0
