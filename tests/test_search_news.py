"""A stage is to tell something: what another run has shown already is no news, whoever trains it again."""

import math
from statistics import fmean

import pytest

from lrtune.analysis.prefixes import shared
from lrtune.search import Beginnings, advance
from lrtune.wire.results import REPORTS, Report, Trial
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
