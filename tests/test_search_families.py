"""Every schedule family gets a run to its end, from half of the budget on or in time for all, as the budget allows."""

from dataclasses import replace

import numpy as np

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


def test_the_last_quarter_of_the_budget_and_its_first_half_are_free_of_it():
    for left in (3.9, 6.1):
        assert not asked(left).reason.startswith("no whole run")


def test_without_a_budget_in_full_runs_there_is_no_end_to_plan_for():
    assert not asked(5.9, budget=np.inf).reason.startswith("no whole run")
