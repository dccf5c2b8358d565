"""A family that names a torch or Keras form has its rates to 1e-12: torch side by side, Keras by its documentation."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as lrs
from transformers import TrainingArguments

from lrtune.schedules import Curve, Plateau, schedule

PEAK = 0.3
TORCH = {
    "cosine": (60, {"final": 0.05}, lambda o, n: lrs.CosineAnnealingLR(o, T_max=n, eta_min=0.05 * PEAK)),
    "cosine to zero": (60, {"final": 0.0}, lambda o, n: lrs.CosineAnnealingLR(o, T_max=n)),
    "exponential": (60, {"final": 0.01}, lambda o, n: lrs.ExponentialLR(o, gamma=0.01 ** (1 / n))),
    "step": (60, {"gamma": 0.3, "every": 0.1}, lambda o, n: lrs.StepLR(o, step_size=6, gamma=0.3)),
    "step of uneven blocks": (50, {"gamma": 0.5, "every": 0.15}, lambda o, n: lrs.StepLR(o, step_size=8, gamma=0.5)),
    "multistep": (
        60,
        {"gamma": 0.2, "milestones": [0.3, 0.7, 0.9]},
        lambda o, n: lrs.MultiStepLR(o, [18, 42, 54], gamma=0.2),
    ),
    "linear": (60, {"final": 0.1}, lambda o, n: lrs.LinearLR(o, start_factor=1, end_factor=0.1, total_iters=n)),
    "linear-growth": (60, {"start": 0.1}, lambda o, n: lrs.LinearLR(o, start_factor=0.1, end_factor=1, total_iters=n)),
    "polynomial": (60, {"power": 2.5, "final": 0.0}, lambda o, n: lrs.PolynomialLR(o, total_iters=n, power=2.5)),
    "restarts": (
        70,
        {"cycles": 3, "mult": 2.0, "gamma": 1.0, "final": 0.1},
        lambda o, n: lrs.CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2, eta_min=0.1 * PEAK),
    ),
    "restarts of equal length": (
        60,
        {"cycles": 4, "gamma": 1.0},
        lambda o, n: lrs.CosineAnnealingWarmRestarts(o, T_0=15),
    ),
}


def rates_of_torch(make, steps: int) -> list[float]:
    """The rate of every step as torch's scheduler sets it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(name: str, steps: int, /, **values) -> list[float]:
    factor = schedule(name, **values).over(steps)
    return [PEAK * factor(step) for step in range(steps)]


@given(steps=st.integers(2, 100_000), warmup=st.floats(0.001, 0.9))
def test_a_warm_up_lasts_as_long_as_transformers_makes_it(steps, warmup):
    rise = TrainingArguments.get_warmup_steps(SimpleNamespace(warmup_steps=warmup), steps)
    assert Curve(schedule("linear"), warmup=warmup).rise(steps) == min(rise, steps - 1)


@pytest.mark.parametrize("case", TORCH)
def test_same_rates_as_torch(case):
    steps, values, make = TORCH[case]
    family = case.split()[0]
    assert ours(family, steps, **values) == pytest.approx(rates_of_torch(make, steps), rel=1e-12, abs=0)


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_same_rates_as_torch_cyclic(mode):
    def make(optimizer, steps):
        gamma = {"gamma": 0.1 ** (1 / steps)} if mode == "exp_range" else {}
        return lrs.CyclicLR(optimizer, 0.1 * PEAK, PEAK, step_size_up=10, mode=mode, cycle_momentum=False, **gamma)

    same = ours("cyclic", 80, base=0.1, cycles=4, mode=mode.replace("_", "-"), gamma=0.1)
    assert same == pytest.approx(rates_of_torch(make, 80), rel=1e-12, abs=0)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_same_rates_as_torch_one_cycle(anneal):
    steps, rise, start, final = 100, 0.3, 0.04, 0.001

    def make(optimizer, n):
        return lrs.OneCycleLR(
            optimizer,
            max_lr=PEAK,
            total_steps=n + 1,
            pct_start=(rise * n + 1) / (n + 1),
            div_factor=1 / start,
            final_div_factor=start / final,
            anneal_strategy=anneal,
            cycle_momentum=False,
        )

    shape = {"cos": "cosine", "linear": "linear"}[anneal]
    same = ours("one-cycle", steps, rise=rise, start=start, final=final, shape=shape)
    assert same == pytest.approx(rates_of_torch(make, steps), rel=1e-12, abs=0)


@pytest.mark.parametrize("seed", range(20))
def test_same_rates_as_torch_reduce_on_plateau(seed):
    chance = random.Random(seed)
    factor, patience, final = chance.uniform(0.1, 0.9), chance.randint(0, 4), chance.choice([0.0, 0.05])
    losses = [math.exp(-0.05 * i) + chance.uniform(0, 0.3) for i in range(50)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = lrs.ReduceLROnPlateau(optimizer, factor=factor, patience=patience, min_lr=final * PEAK, eps=0)
    rule = Plateau(factor=factor, patience=patience, threshold=1e-4, final=final)
    for report, loss in enumerate(losses, start=1):
        scheduler.step(loss)
        seen = [(10 * (i + 1), value) for i, value in enumerate(losses[:report])]
        rate = PEAK * Curve(rule).after(seen, 510).over(510)(10 * report)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=0)


def test_lambda_lr_takes_a_whole_curve_as_it_is():
    factor = Curve(schedule("wsd", decay=0.5, shape="sqrt"), warmup=0.1, floor=0.01).over(40)
    found = rates_of_torch(lambda optimizer, n: lrs.LambdaLR(optimizer, factor), 40)
    assert found == [PEAK * factor(step) for step in range(40)]


N = 60
KERAS = {  # name: knobs of ours, the formula of the Keras documentation at a step
    "ExponentialDecay": (
        "exponential",
        {"final": 0.5**3},
        lambda step: 0.5 ** (step / 20),
    ),
    "ExponentialDecay(staircase=True)": (
        "exponential",
        {"final": 0.5**10, "every": 0.1},
        lambda step: 0.5 ** math.floor(step / 6),
    ),
    "InverseTimeDecay": ("inverse-time", {"decay": 0.7 * N / 10}, lambda step: 1 / (1 + 0.7 * step / 10)),
    "PolynomialDecay": (
        "polynomial",
        {"power": 1.5, "final": 0.02},
        lambda step: (1 - 0.02) * (1 - min(step, N) / N) ** 1.5 + 0.02,
    ),
    "CosineDecay": (
        "cosine",
        {"final": 0.1},
        lambda step: (1 - 0.1) * 0.5 * (1 + math.cos(math.pi * min(step, N) / N)) + 0.1,
    ),
    "CosineDecayRestarts": (
        "restarts",
        {"cycles": 3, "gamma": 0.5},
        lambda step: 0.5 * 0.5 ** (step // 20) * (1 + math.cos(math.pi * (step % 20) / 20)),
    ),
    # Keras changes one step after its boundary: its 17 and 41 are our 18 and 42 of 60.
    "PiecewiseConstantDecay": (
        "piecewise",
        {"boundaries": [0.3, 0.7], "factors": [1.0, 0.5, 0.1]},
        lambda step: 1.0 if step <= 17 else 0.5 if step <= 41 else 0.1,
    ),
}


@pytest.mark.parametrize("form", KERAS)
def test_same_rates_as_keras_documents(form):
    name, values, formula = KERAS[form]
    assert ours(name, N, **values) == pytest.approx([PEAK * formula(step) for step in range(N)], rel=1e-12, abs=0)
