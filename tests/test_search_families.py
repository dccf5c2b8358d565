"""Every schedule family gets a run to its end, from half of the budget on or in time for all, as the budget allows."""

from dataclasses import replace

import numpy as np
import pytest

from lrtune.search.engine.costs import Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.types import Decision, Pool, Run

STEPS, EVERY, BUDGET = 400, 20, 12.0
FAMILIES = ("cosine", "wsd", "inverse-sqrt")
RATES = np.geomspace(1e-2, 1e2, 10)
CURVES = [rate * np.linspace(1.0, 0.1 * (1 + place), 64) for place in range(len(FAMILIES)) for rate in RATES]
NAMES = tuple(family for family in FAMILIES for _ in RATES)
POOL = Pool(
    keys=tuple(range(len(NAMES))),
    horizons=np.full(len(NAMES), STEPS),
    curves=np.array(CURVES),
    extras=np.zeros((len(NAMES), 0)),
    free=np.zeros(len(NAMES), dtype=np.int64),
    every=np.full(len(NAMES), EVERY),
    families=NAMES,
)


def run(key: int, until: int, born: int) -> Run:
    """The further from the first family, the worse, so that the others are not worth a run by themselves."""
    ends = 0.3 + 0.2 * FAMILIES.index(NAMES[key]) + 0.2 * abs(np.log10(RATES[key % len(RATES)]))
    reports = tuple((step, float(ends + 2 * np.exp(-step / 50))) for step in range(EVERY, until + 1, EVERY))
    state = "complete" if until == STEPS else "paused"
    return Run(key, STEPS, tuple(CURVES[key]), (), reports, state, until, born, family=NAMES[key])


RUNS = [run(key, STEPS if key < 10 else EVERY, born) for born, key in enumerate((3, 5, 12, 17, 22, 27, 4, 6))]


def asked(left: float, runs: list[Run] = RUNS, budget: float = BUDGET) -> Decision:
    settings = Settings(short_horizons=False, budget=budget)
    found = decide(POOL, runs, STEPS, 0, settings, left=left)[0]
    assert found is not None
    return found


def test_from_half_of_the_budget_on_a_family_without_a_whole_run_gets_one():
    found = asked(5.9)
    assert (NAMES[found.row], found.until) in {("wsd", STEPS), ("inverse-sqrt", STEPS)}
    assert found.reason == f"no whole run of {NAMES[found.row]} yet: the best forecast of it"
    then = asked(4.9, [*RUNS, run(found.row, STEPS, 8)])
    assert {NAMES[found.row], NAMES[then.row], "cosine"} == set(FAMILIES)


def test_it_begins_earlier_where_a_quarter_of_the_budget_would_not_do_for_all():
    """Two families are left: with a budget of 7 they take 2, and 1.75 is to stay, so half of it is too late."""
    assert asked(4.7, budget=7.0).reason.startswith("no whole run")
    assert not asked(4.8, budget=7.0).reason.startswith("no whole run")
    assert not asked(3.8, budget=5.0).reason.startswith("no whole run")  # a quarter is spent as it pleases


def test_one_that_a_pruner_stopped_has_been_tried():
    stopped = [replace(run(key, EVERY * 5, 8 + key), until=STEPS) for key in (11, 21)]
    assert not asked(5.9, [*RUNS, *stopped]).reason.startswith("no whole run")


def diverged(key: int, born: int) -> Run:
    return replace(run(key, EVERY, born), reports=((EVERY, np.nan),), state="diverged", until=STEPS)


def test_one_whose_run_diverged_gets_a_second_one_and_no_third():
    """At the rate that others came to their end at; it may not suit the family, but has not been ruled out."""
    wsd, other = diverged(19, 8), diverged(29, 9)
    found = asked(5.9, [*RUNS, wsd, run(22, STEPS, 9)])
    assert found.reason == "no whole run of wsd yet: the best forecast of it"
    assert not asked(5.9, [*RUNS, wsd, diverged(18, 10), run(22, STEPS, 9)]).reason.startswith("no whole run")
    assert asked(5.9, [*RUNS, wsd, other]).reason.startswith("no whole run")


@pytest.mark.parametrize(("ended", "apart", "at"), [((4, 5, 6), (7, 28), 80), ((2, 4, 5, 6), (28, 29), 160)])
def test_a_family_without_a_whole_run_does_not_begin_where_two_others_diverged(
    ended: tuple[int, ...], apart: tuple[int, ...], at: int
) -> None:
    """The higher the rate the better, up to where training comes apart: there went one family after the other."""

    def fast(key: int, until: int, born: int) -> Run:
        ends = 1.2 - 0.12 * (key % 10) + 0.02 * FAMILIES.index(NAMES[key])
        reports = tuple((step, float(ends + 2 * np.exp(-step / 50))) for step in range(EVERY, until + 1, EVERY))
        return replace(run(key, until, born), reports=reports)

    runs = [fast(key, STEPS if key < 10 else EVERY, born) for born, key in enumerate((*ended, 12, 17, 22, 27))]
    for key in apart:
        reports = (*fast(key, at, 0).reports[:-1], (at, np.nan))
        runs.append(replace(diverged(key, len(runs)), reports=reports))
    found = asked(5.9, runs)
    assert found.reason.startswith("no whole run of wsd yet")
    assert found.row % 10 < max(key % 10 for key in apart)


def test_the_last_quarter_of_the_budget_and_its_first_half_are_free_of_it():
    for left in (3.9, 6.1):
        assert not asked(left).reason.startswith("no whole run")


def test_without_a_budget_in_full_runs_there_is_no_end_to_plan_for():
    assert not asked(5.9, budget=np.inf).reason.startswith("no whole run")
