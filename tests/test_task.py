"""What `Task` does for whoever inherits from it: batches, the evaluation, device moves, groups and frozen layers."""

import math
from collections import namedtuple
from itertools import islice

import pytest
import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import TensorDataset

from lrtune.errors import TaskError
from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.task import Task, moved
from lrtune.wire.job import Metric
from tests.test_trainer import run, trial
from worker.optimizers import build


class Small(BaseModel):
    batch_size: int = 4
    width: int = 6


class Blobs(Task):
    """Two clouds of points: as little as a task can say."""

    Params = Small
    metrics = {"val_loss": "minimize", "val_accuracy": "maximize"}

    def train_set(self):
        x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
        return TensorDataset(x, (x.sum(1) > 0).long())

    def validation_set(self):
        return [(torch.full((3,), float(i)), int(i > 0)) for i in range(-3, 4)]

    def model(self):
        return nn.Sequential(nn.Linear(3, self.params.width), nn.ReLU(), nn.Linear(self.params.width, 2))

    def loss(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def measure(self, model, batch):
        return {
            "val_loss": self.loss(model, batch),
            "val_accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean(),
        }


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_two_sets_a_model_and_a_loss_are_a_whole_task():
    outcome, reports = run(Blobs(), trial(horizon=200), metric=Metric(name="val_accuracy", goal="maximize"))
    assert outcome.value == 1.0
    assert set(reports[-1].metrics) == {"val_loss", "val_accuracy", "train_loss"}
    assert run(Blobs(), trial(horizon=200), metric=Metric(name="val_accuracy", goal="maximize"))[1] == reports


def test_every_epoch_is_a_permutation_that_the_seed_decides_without_a_last_partial_batch():
    task = Blobs(Small(batch_size=7))
    assert task.steps_per_epoch == 4
    first = [x for x, _ in islice(task.batches(1), 8)]
    assert [len(x) for x in first] == [7] * 8
    again, other = ([x for x, _ in islice(task.batches(seed), 8)] for seed in (1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[4])
    assert len({tuple(row) for x in first[:4] for row in x.tolist()}) == 28, "no example twice in an epoch"


def test_fewer_examples_than_a_batch_are_one_batch():
    task = Blobs(Small(batch_size=1000))
    assert (task.steps_per_epoch, len(next(task.batches(0))[0])) == (1, 30)


def test_metrics_are_means_over_examples_whatever_the_batches():
    """Seven examples in batches of four and three: each counts the same."""
    model = Blobs().model().requires_grad_(False)
    values = [Blobs(Small(batch_size=size)).evaluate(model) for size in (1, 4, 7)]
    assert values[0] == pytest.approx(values[2])
    assert values[1] == pytest.approx(values[2])
    whole = Blobs()
    batch = whole.collate(whole.validation_set())
    assert values[2]["val_loss"] == pytest.approx(float(whole.loss(model, batch)))


def test_a_task_that_says_nothing_of_its_data_is_told_what_it_needs():
    class Bare(Blobs):
        train_set, validation_set = Task.train_set, Task.validation_set

    with pytest.raises(NotImplementedError, match=r"Bare needs train_set\(\), or batches\(\) and steps_per_epoch"):
        next(Bare().batches(0))
    with pytest.raises(NotImplementedError, match=r"Bare needs validation_set\(\), or its own evaluate\(\)"):
        Bare().evaluate(Bare().model())


def test_a_batch_is_moved_whatever_it_is_made_of():
    one = torch.zeros(1)
    pair = namedtuple("pair", "x y")

    class Own:
        def to(self, device):
            return f"own on {device}"

    there = moved({"a": [one, (one, "text")], "b": pair(one, Own()), "c": 3}, torch.device("meta"))
    assert there["a"][0].device.type == there["a"][1][0].device.type == there["b"].x.device.type == "meta"
    assert (there["a"][1][1], there["b"].y, there["c"]) == ("text", "own on meta", 3)


def test_batches_that_end_are_an_error_that_says_when():
    class Dry(Blobs):
        def batches(self, seed):
            return islice(super().batches(seed), 3)

    with pytest.raises(TaskError, match="batches ran dry after 3 of them"):
        run(Dry(), trial(horizon=5))


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    def test_gives_each_group_its_multiple_of_the_rate_at_every_factor(self, name: str):
        model = Body()
        groups = [{"params": model.body.parameters(), "rate": 0.1}, {"params": model.head.parameters()}]
        if name == "prodigy":  # which has one step size for all
            with pytest.raises(TaskError, match="accepted are groups without rates of their own"):
                build(optimizer(name), model, learning_rate=0.3, groups=groups)
            return
        stepper = build(optimizer(name), model, learning_rate=0.3, groups=groups)
        of = {id(p): group for group in stepper.groups for p in group["params"]}
        for factor in (1.0, 0.25, 0.0):
            stepper.set_factor(factor)
            for parameter in model.body.parameters():
                assert of[id(parameter)]["lr"] == 0.3 * 0.1 * factor
            for parameter in model.head.parameters():
                assert of[id(parameter)]["lr"] == 0.3 * factor

    def test_leaves_frozen_layers_as_they_are(self, name: str):
        model = Body()
        model.body[0].requires_grad_(False)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        stepper = build(optimizer(name), model, learning_rate=0.3)
        for _ in range(2):
            stepper.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            stepper.step()
        same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
        assert same == {"body.0.weight", "body.0.bias"}


def test_a_trial_trains_a_task_with_a_frozen_body_and_groups():
    class Tuned(Blobs):
        def model(self):
            made = super().model()
            made[0].requires_grad_(False)
            models.append(made)
            return made

        def groups(self, model):
            return [{"params": model[2].weight, "rate": 0.5, "weight_decay": 0.0}, {"params": [model[2].bias]}]

    models = []
    run(Tuned(), trial(horizon=40))
    torch.manual_seed(7)
    fresh = Blobs().model()
    assert torch.equal(models[0][0].weight, fresh[0].weight)
    assert not torch.equal(models[0][2].weight, fresh[2].weight)


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (lambda m: [{"params": m.body.parameters()}], "no group has head.weight, head.bias"),
        (lambda m: [{"params": m.parameters()}, {"params": m.head.bias}], "more than one group has head.bias"),
        (lambda m: [{"params": m.parameters()}, {"params": [nn.Parameter(torch.ones(1))]}], "model does not have 1 of"),
        (lambda m: [{"params": m.parameters(), "lr": 1.0}], "found lr 1.0; accepted is `rate`, a multiple"),
        (lambda m: [{"params": m.parameters(), "rate": 0}], "found the rate 0; accepted is a number above 0"),
        (lambda m: [{"params": m.parameters(), "rate": math.inf}], "found the rate inf"),
        (lambda m: [m.parameters()], 'accepted is {"params"'),
        (lambda m: m.requires_grad_(False) and [{"params": m.parameters()}], "every parameter is frozen"),
    ],
)
def test_groups_that_are_not_the_parameters_once_each_are_refused_in_words(groups, sentence: str):
    model = Body()
    with pytest.raises(TaskError) as caught:
        build(optimizer("adamw"), model, learning_rate=0.1, groups=groups(model))
    assert sentence in str(caught.value)
