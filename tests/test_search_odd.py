"""Odd jobs: small budgets with many at once, and spaces that hold no more than one configuration."""

import math

import pytest

from lrtune.analysis.answer import best
from lrtune.search import advance
from lrtune.search.advance import spent
from lrtune.search.horizons import at_horizons
from lrtune.search.landscape import forecasts
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Report, Trial, TrialState
from tests.simulated import begin, carried_out, end, evenly, job, stop

OUTSIDE = {"baseline": {"learning_rate": 50.0}}  # of the rates that are searched


def falling(trial: Trial) -> list[Report]:
    """The loss falls to what is a parabola over the logarithm of the rate."""
    last = 0.3 + 0.05 * (math.log(trial.configuration.learning_rate) + 5.0) ** 2
    return evenly([last + 1.5 * (1 - place / REPORTS) ** 2 for place in range(1, REPORTS + 1)], trial.horizon)


@pytest.mark.parametrize("schedules", [["linear"], ["cosine", "wsd"]])
def test_of_two_runs_one_is_chosen_unseen_also_beside_a_baseline_outside_the_space(schedules):
    spec = job("curve", steps=1000, schedules=schedules, budget={"full_runs": 2}, confirm={"top": 0}, **OUTSIDE)
    history = carried_out(spec, falling, steps=1000)
    assert [(trial.role, trial.step) for trial in history] == [("baseline", 1000), ("search", 1000)]


@pytest.mark.parametrize("budget", [2.02, 2.06, 2.3])
@pytest.mark.parametrize("workers", [1, 4])
def test_the_first_complete_run_is_one_that_the_budget_has_room_for_where_there_is_one(budget, workers):
    """A stage leaves less than a whole run, which brings just that stage to its end: none is begun beside it."""
    spec = job("curve", steps=100, schedules=["linear"], budget={"full_runs": budget}, confirm={"top": 0}, **OUTSIDE)
    history: list[Trial] = []
    while not (step := advance(spec, history, steps=100, seconds=0.0)).over:
        running = [trial for trial in history if trial.state is TrialState.RUNNING]
        if step.proposal and len(running) < workers:
            begin(history, step.proposal)
            assert spent(history, steps=100) <= budget
        elif running:
            reports = [one for one in falling(running[0]) if one.step <= (running[0].until or 100)]
            value = None if running[0].until else reports[-1].metrics["loss"]
            end(history, running[0], reports=reports, value=value)
        else:
            stop(history, step)


def only(**fields: object) -> AdmittedJob:
    """A job whose space is one configuration, which is its baseline, too."""
    one = {"optimizers": [{"name": "adamw", "learning_rate": 0.001}], "schedules": ["constant"], "warmup": 0.0}
    return job("curve", steps=100, **one, baseline={"learning_rate": 0.001}, confirm={"top": 0}, **fields)


def test_an_answer_that_is_all_of_its_space_is_carried_over_to_other_horizons_and_drawn():
    spec = only(budget={"full_runs": 1})
    history = carried_out(spec, falling, steps=100)
    answer = best(spec, history, steps=100, full_runs=1.0)
    assert answer is not None
    assert [one.known for one in at_horizons(spec, answer, history, [100, 400])] == ["run", "square-root-rule"]
    assert not forecasts(spec, history, steps=100).runs


@pytest.mark.parametrize("staged", [False, True], ids=["whole runs", "stages"])
def test_a_metric_far_from_zero_is_searched_too(staged):
    """Beside a log-likelihood of -1,000,000 whatever tuning moved was less than a difference: the baseline stayed."""

    def moved(trial: Trial) -> list[Report]:
        last = -1e6 + (math.log10(trial.configuration.learning_rate) + 2.5) ** 2
        to_come = [1.5 * (1 - place / REPORTS) ** 2 if staged else 0.0 for place in range(1, REPORTS + 1)]
        return evenly([last + more for more in to_come], trial.horizon)[0 if staged else -1 :]

    budget = {"full_runs": 9} if staged else {"trials": 9}
    history = carried_out(job("curve", steps=1000, schedules=["linear"], budget=budget), moved, steps=1000)
    assert min(trial.value for trial in history if trial.value is not None) < -1e6 + 0.06
