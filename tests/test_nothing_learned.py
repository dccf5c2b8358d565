"""Runs that learn nothing are not trained to their end, set no scale, and are looked past until something learns."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from lrtune.search.engine.costs import Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.model import JobModel
from lrtune.search.engine.nothing_learned import learned, level, standstill, waking
from lrtune.search.engine.types import Pool, Run

STEPS, EVERY = 400, 20
RATES = np.geomspace(1e-4, 1e4, 61)
STAGED = Settings(short_horizons=False)
CHANCE = math.log(2)  # the loss of who knows nothing of two classes
Loss = Callable[[float, int], float]


def pool(rates: np.ndarray = RATES) -> Pool:
    n = len(rates)
    return Pool(
        keys=tuple(range(n)),
        horizons=np.full(n, STEPS),
        curves=np.repeat(rates[:, None], 64, axis=1),
        extras=np.zeros((n, 0)),
        free=np.zeros(n, dtype=np.int64),
        every=np.full(n, EVERY),
    )


def few_learn(rate: float, step: int) -> float:
    """One rate in ten learns, and not before a twentieth of the run."""
    off = math.log10(rate / 3.0) / 0.25
    gain = 0.4 * math.exp(-0.5 * off * off) * max(step / STEPS - 0.05, 0.0) if abs(off) < 2 else 0.0
    return CHANCE - gain + 3e-4 * math.sin(step * rate)


def stands(rate: float, step: int) -> float:
    return CHANCE


def run(key: int, until: int, loss: Loss, born: int) -> Run:
    reports = tuple((step, loss(float(RATES[key]), step)) for step in range(EVERY, until + 1, EVERY))
    state = "complete" if until == STEPS else "paused"
    return Run(key, STEPS, (float(RATES[key]),) * 64, (), reports, state, until, born)


def search(loss: Loss, decisions: int, left: float = np.inf) -> list[Run]:
    runs: dict[int, Run] = {}
    for number in range(decisions):
        decision = decide(pool(), list(runs.values()), STEPS, number, STAGED, left=left)[0]
        if decision is None:
            break
        key = decision.row
        born = runs[key].born if key in runs else len(runs)
        left -= (decision.until - (runs[key].steps if key in runs else 0)) / STEPS
        runs.pop(key, None)
        runs[key] = run(key, decision.until, loss, born)
    return list(runs.values())


@pytest.mark.parametrize("seed", range(3))
def test_no_run_that_learns_nothing_is_trained_to_its_end_and_one_that_learns_is_found(seed):
    def loss(rate: float, step: int) -> float:
        return few_learn(rate * 10 ** (seed - 1), step)

    whole = [one for one in search(loss, 60, left=6.0) if one.steps == STEPS]
    assert whole
    assert all(one.reports[-1][1] < CHANCE * 0.99 for one in whole)


def test_while_nothing_learns_others_are_looked_at_for_longer_and_longer():
    runs = search(lambda rate, step: CHANCE + 3e-4 * math.sin(step * rate), 20, left=50.0)
    assert len(runs) == 20, "none was gone on with"
    assert [one.steps // EVERY for one in sorted(runs, key=lambda one: one.born)][6:] == [1, 1, 2, 1, 1, 2, 4] * 2


def test_a_run_that_has_left_the_level_by_a_little_is_given_time_to_learn():
    def slow(rate: float, step: int) -> float:
        gain = 0.004 * step / EVERY if 0.1 < rate < 10 else 0.0
        return CHANCE * (1 - gain) + 3e-4 * math.sin(step * rate)

    runs = search(slow, 8, left=50.0)
    assert any(one.reports[-1][1] < CHANCE * 0.99 for one in runs), "two decisions after the initial design"


def test_runs_that_have_left_the_level_and_learn_nothing_get_no_more_than_half_of_the_steps():
    def stuck(rate: float, step: int) -> float:
        return CHANCE * (0.996 if 0.1 < rate < 10 else 1.0) + 3e-4 * math.sin(step * rate)

    runs = search(stuck, 30, left=50.0)
    given = sum(one.steps for one in runs if one.reports[-1][1] < CHANCE * 0.998)
    assert given <= 0.7 * sum(one.steps for one in runs), "a half, and the last stage"
    assert len(runs) > 15, "others are looked at besides"


def test_the_looking_ends_at_half_of_the_budget():
    runs = search(lambda rate, step: CHANCE + 3e-4 * math.sin(step * rate), 200, left=4.0)
    assert any(one.steps == STEPS for one in runs)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_level_is_where_first_reports_of_very_different_rates_stand(sign):
    runs = [run(key, EVERY, lambda rate, step: sign * few_learn(rate, step), key) for key in (0, 12, 24, 48, 60)]
    assert level(runs) == pytest.approx(sign * CHANCE, rel=2e-3)
    assert level(runs[:2]) == math.inf, "two are not enough"


def test_runs_that_come_down_to_one_value_and_stand_still_there_have_learned_nothing():
    """Networks that begin above who guesses by frequencies learn that, whatever their level at first."""

    def left(rate: float, step: int) -> float:
        return 0.5 * math.exp(-step * (5 + math.log10(rate)) / 20)

    def falls(rate: float, step: int) -> float:
        return CHANCE + left(rate, step)

    def ends_well(rate: float, step: int) -> float:
        return 0.3 + left(rate, step // 3)

    keys = (10, 25, 40)
    assert standstill([run(key, EVERY, falls, key) for key in keys]) == math.inf, "that they stand is not seen yet"
    assert standstill([run(key, EVERY * 12, falls, key) for key in keys]) == pytest.approx(CHANCE, rel=2e-3)
    assert standstill([run(key, EVERY * 12, ends_well, key) for key in keys]) == math.inf, "better than any began"


def test_of_two_values_the_lower_is_that_of_runs_that_learned_nothing():
    """Rates near nothing stand at the loss of the untrained network, others at that of who guesses by frequencies."""

    def two(rate: float, step: int) -> float:
        return CHANCE * 1.01 if rate < 0.1 or step == EVERY else CHANCE

    runs = [run(key, EVERY * 4, two, key) for key in (0, 5, 10, 15, 30, 40, 50)]
    assert level(runs) == pytest.approx(CHANCE * 1.01, rel=2e-3)
    assert standstill(runs) == pytest.approx(CHANCE, rel=2e-3)


def test_the_longer_runs_have_stood_still_the_less_is_hoped_of_them():
    def wakes(rate: float, step: int) -> float:
        return CHANCE * (0.9 if step > EVERY else 1.0)

    begun, still = run(10, EVERY, stands, 9), [run(key, EVERY * 8, stands, key) for key in (0, 20, 40)]
    later, alone = waking([begun, *still], CHANCE), waking([begun], CHANCE)[10]
    assert 0.0 < later[0] < later[10] < alone
    assert waking([begun, *(run(key, EVERY * 4, wakes, key) for key in range(3))], CHANCE).keys() == {10}
    assert waking([begun, *(run(key, EVERY * 4, wakes, key) for key in range(3))], CHANCE)[10] > alone


def test_values_that_differ_from_rate_to_rate_are_no_level():
    runs = [run(key, EVERY, lambda rate, step: CHANCE + 0.01 * math.log10(rate), key) for key in range(0, 60, 6)]
    assert level(runs) == math.inf
    assert all(learned(one, math.inf) for one in runs)


def test_runs_that_learned_nothing_set_no_scale():
    learners = [run(36, EVERY * 10, few_learn, 0), run(37, EVERY * 10, few_learn, 1), run(34, EVERY * 10, few_learn, 2)]
    idle = [run(key, EVERY * 10, few_learn, 3 + key) for key in (0, 6, 12, 18, 48, 54, 60)]
    few, many = JobModel(pool(), [*learners, *idle[:3]], STEPS), JobModel(pool(), [*learners, *idle], STEPS)
    at, values = np.array([200.0, 200.0]), np.array([CHANCE, learners[0].reports[-1][1]])
    assert few.normaliser.score(at, values) == pytest.approx(many.normaliser.score(at, values), rel=0.05)


def test_a_curve_that_is_nearly_one_that_was_trained_is_expected_to_end_where_that_did():
    """It has nothing to teach, so nothing is hoped of it: a twelfth neighbour of the leader is no new chance."""
    rates = np.array([0.1, 1.0, 1.02, 3.0])
    known = [replaced(run(30, STEPS, few_learn, born), key=key, rate=rates[key]) for born, key in enumerate((0, 1))]
    model = JobModel(pool(rates), known, STEPS)
    mean, variance = model.forecast(np.array([1, 2, 3]))
    assert mean[1] == pytest.approx(mean[0], abs=0.02)
    assert variance[1] < 1.5 * variance[0]
    assert variance[2] > 2 * variance[1]


def replaced(one: Run, key: int, rate: float) -> Run:
    reports = tuple((step, few_learn(rate, step)) for step, _ in one.reports)
    return Run(key, STEPS, (float(rate),) * 64, (), reports, one.state, one.until, one.born)
