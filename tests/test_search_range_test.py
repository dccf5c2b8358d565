"""The learning-rate range test that a search in stages begins with: where it is run, and what it rules out."""

import math

import pytest

from lrtune.analysis.answer import best
from lrtune.analysis.report import report
from lrtune.search import advance
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Report, Trial, TrialState, WarmStartTrial
from tests.simulated import begin, end

STEPS = 1000


def job(**fields: object) -> AdmittedJob:
    wire = {"task": "digits", "metric": {"name": "val_loss", "goal": "minimize"}, "horizon": {"steps": STEPS}}
    return AdmittedJob.model_validate(wire | {"budget": {"full_runs": 10}, "confirm": {"top": 0}} | fields)


def asked(spec: AdmittedJob, history: list[Trial], *, continued: bool = True) -> Proposal:
    steps = spec.horizon.steps
    step = advance(spec, history, steps=steps, seconds=0.0, continued=continued)
    assert step.proposal
    return step.proposal


def begun(spec: AdmittedJob) -> list[Trial]:
    """The baseline, over."""
    history: list[Trial] = []
    end(history, begin(history, asked(spec, [])), value=1.0)
    return history


def risen(spec: AdmittedJob, history: list[Trial], breaks: float, state: str = "complete", sign: float = 1.0) -> Trial:
    """The range test, on which training gets better up to a rate and comes apart above it."""
    test = begin(history, asked(spec, history))
    rates = test.configuration.learning_rates(test.horizon)
    told = []
    for step in range(5, len(rates) + 1, 5):
        rate = rates[step - 1]
        value = 2.0 - min(math.log10(rate / rates[0]), 4.0) / 4 if rate <= breaks else 3.0
        told.append(Report(step=step, learning_rate=rate, metrics={"val_loss": sign * value}))
        if rate > breaks and state == "diverged":
            break
    value = told[-1].metrics["val_loss"] if state == "complete" else None
    return end(history, test, state, step=told[-1].step, value=value, reports=told)


def test_after_the_baseline_the_rate_rises_through_each_optimizers_whole_range():
    spec = job(optimizers=["adamw", {"name": "sgd", "momentum": 0.9}], clip_norm=0.5)
    history = begun(spec)
    for name in ("adamw", "sgd"):
        test = asked(spec, history)
        space = spec.space().optimizers[name]["learning_rate"].options
        rates = test.configuration.learning_rates(100)
        assert (test.role, test.horizon, test.until) == ("range-test", 100, None)
        assert test.configuration.optimizer.as_dict()["name"] == name
        assert test.configuration.clip_norm == 0.5
        assert rates[0] == pytest.approx(min(space), rel=0.15)
        assert rates[-1] == pytest.approx(max(space), rel=0.15)
        assert test.reason.startswith("learning-rate range test: the rate climbs from ")
        risen(spec, history, 1e-2)
    assert asked(spec, history).role == "search"


@pytest.mark.parametrize(("state", "goal", "sign"), [("complete", "maximize", -1.0), ("diverged", "minimize", 1.0)])
def test_the_initial_design_stays_below_the_rate_at_which_the_range_test_came_apart(state, goal, sign):
    spec = job(metric={"name": "val_loss", "goal": goal})
    history = begun(spec)
    risen(spec, history, 1e-3, state, sign)
    for _ in range(4):
        trial = begin(history, asked(spec, history))
        end(history, trial, reports=[Report(step=trial.until, learning_rate=0.1, metrics={"val_loss": sign * 2.0})])
    assert {trial.role for trial in history[2:]} == {"search"}
    assert max(trial.configuration.learning_rate for trial in history[2:]) <= 2e-3


@pytest.mark.parametrize(
    ("fields", "continued"),
    [
        ({"budget": {"full_runs": 2}}, True),  # a tenth of a run would be much of what is left
        ({"optimizers": [{"name": "adamw", "learning_rate": [1e-3, 1e-2]}]}, True),  # little to rule out
        ({"horizon": {"steps": 100}}, True),  # ten steps show nothing
        ({"search": {"sampler": "tpe"}}, True),
        ({}, False),
    ],
)
def test_no_range_test_where_it_is_not_worth_its_cost(fields, continued):
    spec = job(**fields)
    history = begun(spec)
    assert asked(spec, history, continued=continued).role == "search"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_range_test_that_did_not_come_to_its_end_rules_nothing_out(state):
    spec = job()
    history = begun(spec)
    test = risen(spec, history, 1e-1)
    history[1] = test.model_copy(update={"state": TrialState(state), "reports": test.reports[:4], "value": None})
    poor = spec.model_copy(update={"budget": spec.budget.model_copy(update={"full_runs": 2.9})})  # too little for one
    without = [history[0].model_copy(update={"decision": 1})]
    assert asked(spec, history).configuration == asked(poor, without).configuration


def test_a_range_test_is_no_complete_run_of_the_jobs_own_space_which_comes_whatever_the_budget():
    spec = job(schedules=["exponential-growth"])
    history = begun(spec)
    risen(spec, history, 1e-3)
    first = asked(spec.model_copy(update={"budget": spec.budget.model_copy(update={"full_runs": 1.0})}), history)
    assert (first.role, first.until, first.horizon) == ("search", None, STEPS)


def test_what_earlier_jobs_teach_is_not_their_range_tests():
    spec = job(schedules=["exponential-growth"], warm_start=True)
    history = begun(spec)
    warm = [WarmStartTrial(job="job_1", trial=risen(spec, history, 1.0))]
    with_test = advance(spec, history, steps=STEPS, seconds=0.0, warm_start=warm)
    assert with_test == advance(spec, history, steps=STEPS, seconds=0.0)


def test_a_range_test_is_no_answer_even_where_its_family_is_searched_and_the_report_says_what_it_cost():
    spec = job(schedules=["exponential-growth", "cosine"])
    history = begun(spec)
    risen(spec, history, 1e-3, "diverged")
    found = best(spec, history, steps=STEPS, full_runs=1.1)
    assert found
    assert found.trial == 0
    told = report(spec, found, history)
    assert told.cost.range_test == pytest.approx(history[1].step / STEPS)
    assert told.saved.divergence == 0.0
    assert all(one.smallest_diverged is None for one in told.stability)
