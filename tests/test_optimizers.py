"""Every optimizer that a job can name: built from torch's own, at exactly the rate it is told."""

import math
from pathlib import Path

import pytest
import torch

from lrtune.errors import TaskError
from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.wire.job import TaskSpec
from worker.optimizers import build
from worker.tasks import prepare

Knobs = dict[str, float]

RATES = {"sgd": 0.05, "adadelta": 1.0, "adagrad": 0.02, "radam": 0.02, "muon": 0.01, "prodigy": 1.0}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    def test_learns_digits(self, name: str):
        task = prepare(TaskSpec(name="digits"), Path())
        model, batches = task.model(), task.batches(0)
        stepper = build(optimizer(name), model, learning_rate=RATES.get(name, 3e-3))
        losses = []
        for _ in range(80):
            loss = task.loss(model, next(batches))
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) < 0.6 * sum(losses[:10])

    def test_sets_every_group_to_exactly_the_base_rate_times_the_factor(self, name: str):
        stepper = build(
            optimizer(name), torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), learning_rate=0.3
        )
        for factor in (1 / 3, 0.7, 0.0, 1.0):
            stepper.set_factor(factor)
            assert [group["lr"] for group in stepper.groups] == [0.3 * factor] * len(stepper.groups)

    def test_moves_nothing_at_a_rate_of_zero(self, name: str):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        stepper = build(optimizer(name), model, learning_rate=0.3)
        stepper.set_factor(0.0)
        model(torch.ones(1, 3)).sum().backward()
        stepper.step()
        assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))

    def test_its_knobs_arrive_at_torch(self, name: str):
        made = optimizer(name, weight_decay=0.03125)
        stepper = build(made, torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), learning_rate=0.3)
        assert {group["weight_decay"] for group in stepper.groups} == {0.03125}


ALIKE = [
    ("sgd", {"momentum": 0.5}, {"momentum": 0.95}),
    ("rmsprop", {"momentum": 0.0}, {"momentum": 0.9}),
]


@pytest.mark.parametrize(("name", "some", "others"), ALIKE)
def test_runs_at_equal_effective_rates_train_alike_and_at_equal_rates_do_not(name: str, some: Knobs, others: Knobs):
    def trained(knobs: Knobs, rate: float) -> float:
        torch.manual_seed(0)
        inputs, truth = torch.randn(64, 4), torch.randn(4, 1)
        model = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        stepper = build(optimizer(name, weight_decay=0.0, **knobs), model, learning_rate=rate)
        for _ in range(400):
            stepper.zero_grad()
            loss = (0.1 * (model(inputs) - inputs @ truth)).square().mean()
            loss.backward()
            stepper.step()
        return math.log(loss.item())

    rate = 0.1 / optimizer(name, **some).effective(1.0)
    there = optimizer(name, **some).effective(rate) / optimizer(name, **others).effective(1.0)
    as_much = abs(trained(others, there) - trained(some, rate))
    assert as_much < 0.25 * abs(trained(others, rate) - trained(some, rate))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_default_knobs_the_usual_rate_is_an_effective_rate_of_one(name: str):
    made = optimizer(name)
    assert made.effective(made.usual) == 1.0


def test_betas_come_as_a_pair():
    stepper = build(optimizer("adamw", beta1=0.8, beta2=0.95), torch.nn.Linear(2, 2), learning_rate=0.1)
    assert stepper.groups[0]["betas"] == (0.8, 0.95)


def test_muon_takes_the_hidden_matrices_and_adamw_everything_else():
    model = torch.nn.Sequential(
        torch.nn.Embedding(5, 4), torch.nn.Linear(4, 6), torch.nn.Conv1d(6, 6, 1), torch.nn.Linear(6, 2)
    )
    muon, adamw = build(optimizer("muon"), model, learning_rate=0.1).parts
    assert [parameter.shape for group in muon.param_groups for parameter in group["params"]] == [(6, 4)]
    rest = [tuple(parameter.shape) for group in adamw.param_groups for parameter in group["params"]]
    assert rest == [(5, 4), (6,), (6, 6, 1), (6,), (2, 6), (2,)]
    assert muon.param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"


def test_muon_says_so_when_a_model_has_no_hidden_matrix_or_torch_is_too_old(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TaskError, match="muon needs a linear layer before the last one"):
        build(optimizer("muon"), torch.nn.Linear(2, 2), learning_rate=0.1)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(TaskError, match=r"muon needs torch 2\.9 or newer"):
        build(optimizer("muon"), torch.nn.Linear(2, 2), learning_rate=0.1)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadam"])
def test_a_fused_step_is_the_same_up_to_rounding_and_skips_what_is_not_finite(name: str):
    def moved(*, fused: bool, values: tuple[float, ...] = (1.0, -2.0, 0.5)) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        stepper, scaler = build(optimizer(name), model, learning_rate=0.1, fused=fused), torch.amp.GradScaler("cpu")
        for value in values:
            stepper.zero_grad()
            scaler.scale(model(torch.full((2, 3), value)).square().mean()).backward()
            for part in stepper.parts:
                scaler.unscale_(part)
                scaler.step(part)
            scaler.update()
        return [parameter.detach() for parameter in model.parameters()]

    for one, other in zip(moved(fused=True), moved(fused=False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    kept = moved(fused=True, values=(1.0, -2.0, float("inf"), 0.5))
    assert all(torch.isfinite(parameter).all() for parameter in kept)
