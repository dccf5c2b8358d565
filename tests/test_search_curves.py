"""The engine of the curve search: what must hold whatever the job."""

import time
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.example_optuna import curve as example_curve
from benchmarks.example_optuna import objective
from lrtune.search import CurveSampler
from lrtune.search.engine.costs import Options, Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.early_stop import Rules, audit, judge
from lrtune.search.engine.features import embed
from lrtune.search.engine.gittins import best_rates
from lrtune.search.engine.types import Pool, Run, told_once
from lrtune.search.surrogate import CurveSurrogate

PEAKS = np.geomspace(1e-4, 1.0, 25)
RAMP = 1 - (np.arange(64) + 0.5) / 64
TARGET = 1000


def curves() -> np.ndarray:
    return np.concatenate([PEAKS[:, None] * RAMP, PEAKS[:, None] * np.ones(64)])


def loss(curve: np.ndarray) -> float:
    """Depends on the mean rate and on being annealed, as real ones do."""
    return float((np.log(curve.mean() / 0.01)) ** 2 * 0.1 + 0.3 * curve[-4:].mean() / curve.mean() + 1)


def pool(horizons: tuple[int, ...] = (TARGET,)) -> Pool:
    c = curves()
    keys = tuple(str(i) for _ in horizons for i in range(len(c)))
    n = len(keys)
    lengths = np.repeat(horizons, len(c))
    return Pool(
        keys,
        lengths,
        np.tile(c, (len(horizons), 1)),
        np.zeros((n, 0)),
        np.zeros(n, dtype=np.int64),
        np.maximum(lengths // 10, 1),
    )


def trained(i: int, until: int = TARGET, state: str = "complete") -> Run:
    c = curves()[i]
    reports = tuple((s, loss(c) + 2 * (1 - s / TARGET)) for s in range(100, until + 1, 100))
    return Run(str(i), TARGET, tuple(c), (), reports, state, until)


def test_the_surrogate_ranks_unseen_curves() -> None:
    c = curves()
    y = np.array([loss(x) for x in c])
    some = np.random.default_rng(0).choice(len(c), 15, replace=False)
    none = np.zeros((len(c), 0))
    model = CurveSurrogate(seed=0).fit(c[some], np.full(15, TARGET), none[some], y[some])
    mean, std = model.predict(c, np.full(len(c), TARGET), none)
    assert np.corrcoef(np.argsort(np.argsort(mean)), np.argsort(np.argsort(y)))[0, 1] > 0.9
    assert (std > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_nine_in_ten_unseen_runs_end_where_the_surrogate_says(seed: int) -> None:
    """Rates that are too high end anywhere, as real ones do: a process alone is then too sure of its forecasts."""
    runs = 200
    random = np.random.default_rng(seed)
    c = np.exp(random.uniform(-9, 0, (500, 1))) * random.uniform(0.2, 1, (500, 64))
    y = np.array([loss(x) for x in c])
    y += np.where(c.mean(axis=1) > 0.03, random.exponential(0.3, 500), random.normal(0, 0.002, 500))
    none, horizons = np.zeros((500, 0)), np.full(500, TARGET)
    model = CurveSurrogate().fit(c[:runs], horizons[:runs], none[:runs], y[:runs])
    mean, std = model.predict(c[runs:], horizons[runs:], none[runs:])
    assert 0.80 <= (np.abs(y[runs:] - mean) <= 1.645 * std).mean() <= 0.97


@pytest.mark.parametrize(
    "values",
    [
        [],
        [1.0],
        [np.nan],
        [np.nan, np.inf],
        [2.0, 2.0, 2.0],
        [1.0, np.nan, 1e30],
        [0.5, 0.6, -3.0, np.inf, 1e300],
        [0.0, 0.0],
    ],
)
def test_the_surrogate_bears_few_equal_and_diverged_values(values: list[float]) -> None:
    n = len(values)
    c = curves()
    model = CurveSurrogate().fit(c[:n], np.full(n, 10), np.zeros((n, 1)), values)
    mean, std = model.predict(c, np.full(len(c), 20), np.ones((len(c), 1)))
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0).all()


def test_the_surrogate_refits_200_runs_quickly_and_the_same_way() -> None:
    random = np.random.default_rng(1)
    c = np.exp(random.uniform(-9, 0, (200, 1))) * np.ones(64) * random.uniform(0.1, 1, (200, 64))
    y = np.array([loss(x) for x in c])
    args = c, np.full(200, TARGET), random.normal(size=(200, 3)), y
    start = time.process_time()
    first = CurveSurrogate(3).fit(*args)
    assert time.process_time() - start < 1.0  # 0.05 s on a quiet core
    again = CurveSurrogate(3).fit(*args)
    assert np.array_equal(first.predict(*args[:3])[0], again.predict(*args[:3])[0])


@given(st.lists(st.floats(0, 10), min_size=64, max_size=64), st.floats(0.01, 1))
def test_any_curve_can_be_embedded(curve: list[float], progress: float) -> None:
    assert np.isfinite(embed(np.array([curve]), np.array([progress]))).all()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 49), st.integers(1, 10), st.booleans()), max_size=12, unique_by=lambda t: t[0]),
    st.integers(0, 5),
)
def test_a_choice_is_always_new_training_of_an_option(past: list[tuple[int, int, bool]], seed: int) -> None:
    runs = [trained(i, 100 * k, "running" if busy else "complete") for i, k, busy in past]
    options = pool((TARGET, 500))
    choice, _ = decide(options, runs, TARGET, seed)
    same, _ = decide(options, runs, TARGET, seed)
    assert choice == same
    assert choice.reason
    assert 0 < choice.until <= choice.horizon
    done = {(r.key, r.horizon): r.until for r in runs}
    assert choice.until > done.get((choice.key, choice.horizon), 0)


def test_a_running_trial_is_not_repeated_and_a_diverged_one_is_left() -> None:
    runs = [trained(i) for i in (2, 6, 10, 14, 18, 22)]
    options = Settings(partial_runs=False)
    choice, _ = decide(pool(), runs, TARGET, 0, options)
    busy = replace(trained(int(choice.key)), reports=(), state="running", until=TARGET)
    second, _ = decide(pool(), [*runs, busy], TARGET, 0, options)
    assert second.key != choice.key
    broken = replace(trained(int(choice.key)), reports=((100, float("nan")),), state="diverged")
    third, _ = decide(pool(), [*runs, broken], TARGET, 0, options)
    assert third.key != choice.key


def test_a_beginning_that_two_runs_share_is_told_once() -> None:
    first = Run("0", TARGET, tuple(np.ones(64)), (), ((100, 2.0), (500, 1.0), (1000, 0.5)), "complete", TARGET, 0)
    falling = tuple(np.where(np.arange(64) < 40, 1.0, 0.1))
    branch = Run("1", TARGET, falling, (), ((100, 2.0), (500, 1.0), (1000, 0.4)), "complete", TARGET, 1)
    by_chance = Run("2", TARGET, tuple(2 * np.ones(64)), (), ((100, 2.0), (500, 1.0)), "stopped", 500, 2)
    assert [run.reports for run in told_once([branch, first, by_chance])] == [
        ((500, 1.0), (1000, 0.4)),
        first.reports,
        by_chance.reports,
    ]


def test_nothing_is_so_cheap_that_the_search_stays_with_it() -> None:
    """Of a run that others have all but trained the price is a share of what it would cost alone."""
    shared = replace(pool(), free=np.full(50, 900, dtype=np.int64))
    options = Options(shared, [trained(1, until=500, state="stopped")], TARGET, Settings())
    assert [options.price(0, TARGET), options.price(0, 950), options.price(1, TARGET)] == pytest.approx(
        [0.4, 0.38, 0.2]
    )
    assert Options(pool(), [], TARGET, Settings()).price(0, TARGET) == 1.0


def test_the_search_finds_the_best_curve() -> None:
    runs: list[Run] = []
    for _ in range(14):
        choice, _ = decide(pool(), runs, TARGET, 0, Settings(partial_runs=False))
        runs.append(trained(int(choice.key)))
    best = min(loss(c) for c in curves())
    assert min(r.reports[-1][1] for r in runs) <= best + 0.02


def test_stages_are_worth_more_than_one_piece() -> None:
    whole = best_rates(0.0, np.array([1.0]), np.array([1.0]), np.array([[1.0]]), np.array([[1.0]]))
    staged = best_rates(0.0, np.array([1.0]), np.array([1.0]), np.array([[0.5, 1.0]]), np.array([[0.1, 0.9]]))
    assert staged[0] > whole[0] > 0


def test_the_pruner_stops_the_hopeless_and_keeps_the_unannealed() -> None:
    runs = [trained(i) for i in (0, 4, 8, 12, 14, 16, 20, 24, 27, 31, 35, 39)]
    rules = Rules(audit=0.0)
    hopeless = judge(runs, trained(1, 500, "running"), TARGET, rules=rules)
    assert hopeless.stop
    assert "against" in hopeless.reason
    good = judge(runs, trained(13, 500, "running"), TARGET, rules=rules)
    assert not good.stop
    assert judge(runs, trained(1, 500, "running"), TARGET, rules=Rules(audit=1.0)).audit
    assert not judge(runs[:2], trained(1, 500, "running"), TARGET, rules=rules).stop


def test_the_audit_counts_and_switches_off() -> None:
    runs = [trained(i) for i in (0, 4, 8, 12, 14, 16, 20, 24, 27, 31, 35, 39)]
    surprise = replace(trained(1), reports=(*trained(1, 900).reports, (TARGET, 0.1)))
    found = audit([*runs, surprise], rules=Rules(audit=1.0))
    assert found.false == 1
    assert found.audited >= 1
    assert not found.on


def test_the_sampler_works_in_a_plain_study() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=CurveSampler(example_curve, horizon=TARGET, seed=0))
    study.optimize(objective, n_trials=20)
    assert study.best_value < 0.1
    assert study.trials[-1].user_attrs["reason"]
