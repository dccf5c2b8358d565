"""What loops pay for: a stage tells something new, and is priced from where it really begins."""

import math
from statistics import fmean

import pytest

from lrtune.analysis.prefixes import shared
from lrtune.search import Beginnings, advance
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Proposal, Report, Stage, Trial, TrialState
from tests import simulated
from tests.simulated import evenly, stop, train

STEPS = 200


def learned(trial: Trial) -> list[Report]:
    """A loss that falls with the mean of the rates so far, and more slowly the higher it is: a flat optimum."""
    rates, found, every = trial.configuration.learning_rates(STEPS), [], STEPS // REPORTS
    for step in range(every, STEPS + 1, every):
        found.append(0.1 + 0.6 * math.exp(-(step / STEPS) * 200 * fmean(rates[:step])))
    return evenly(found, STEPS)


def trained_apart(seed: int) -> list[Trial]:
    """A job of a loop in stages whose trials share nothing, as loops do that are not deterministic."""
    spec = simulated.job(
        "curve", steps=STEPS, budget={"full_runs": 6}, confirm={"top": 0}, search={"sampler": "curve", "seed": seed}
    )
    history: list[Trial] = []
    while not (step := advance(spec, history, steps=STEPS, seconds=0.0, beginnings=Beginnings({}))).over:
        if step.proposal:
            train(history, step.proposal, learned)
        else:
            stop(history, step)
    return history


@pytest.mark.parametrize("seed", [0, 1])
def test_no_stage_ends_where_another_trial_of_the_same_rates_has_shown_what_it_came_to(seed: int) -> None:
    history = trained_apart(seed)
    begun = sorted((stage.decision, trial.number, stage.step) for trial in history for stage in trial.stages)
    design = sum("initial design" in trial.why or trial.role != "search" for trial in history)
    for place, (_, number, step) in enumerate(begun[design:], start=design):
        own = history[number].configuration
        earlier = {history[n].configuration for _, n, at in begun[:place] if n != number and at >= step}
        alike = [one for one in earlier if step < STEPS and shared(one, own, STEPS, until=step) >= step]
        assert not alike, f"trial {number} was trained to step {step} to show what is known"


def test_a_run_of_a_loop_that_the_pruner_stopped_is_priced_from_where_it_goes_on() -> None:
    """Nothing is kept where a loop is told to stop: of 150 steps of a stage from 0 all are trained again."""
    spec = simulated.job(
        "curve", "forecast", steps=STEPS, task="external", budget={"full_runs": 20}, confirm={"top": 0}
    )
    history: list[Trial] = []
    for _ in range(8):
        train(history, next_of(spec, history), learned)
    promising = max(history[2:], key=lambda trial: trial.configuration.learning_rate)
    whole = promising.model_copy(update={"until": None, "start": 0})
    reports = [report for report in learned(whole) if report.step <= 150]
    began = Stage(attempt=1, worker="w", decision=promising.decision, start=0, step=150, outcome="finished")
    stopped = {"state": TrialState.STOPPED, "step": 150, "reports": reports, "stages": [began], "value": None}
    history[promising.number] = whole.model_copy(update=stopped)
    spent = sum(trial.cost for trial in history) / STEPS
    for left in (0.3, 0.5, 0.9):
        found = next_of(spec, history, spent + left)
        assert found is None or found.resume != promising.number, f"there are {left} full runs left, and it costs one"


def next_of(spec: AdmittedJob, history: list[Trial], full_runs: float = 20.0) -> Proposal | None:
    """What a loop with checkpoints is to train next."""
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"full_runs": full_runs})})
    return advance(spec, history, steps=STEPS, seconds=0.0, beginnings=Beginnings({})).proposal


def quadratic(trial: Trial) -> list[Report]:
    """Gradient descent without noise on 30 x^2 + 0.1 from 5: from 750 to 0.1, or away where rates are too high."""
    x, found = 5.0, list[float]()
    for step, rate in enumerate(trial.configuration.learning_rates(100), start=1):
        x = max(min(x - rate * 60.0 * x, 1e100), -1e100)
        if step % 5 == 0:
            found.append(0.1 + 30.0 * x * x)
    return evenly(found, 100)


@pytest.mark.parametrize("seed", range(12))
def test_what_stands_better_than_any_whole_run_is_trained_to_its_end(seed: int) -> None:
    """Beside where such losses begin that is little, and a job of four full runs left it lying for long shots."""
    spec = simulated.job(
        "curve", steps=100, budget={"full_runs": 4}, confirm={"top": 0}, search={"sampler": "curve", "seed": seed}
    )
    history = simulated.carried_out(spec, quadratic, steps=100)
    whole = min(trial.value for trial in history if trial.value is not None and trial.completed(100))
    assert min(trial.reports[-1].metrics["loss"] for trial in history) > 0.9 * whole
