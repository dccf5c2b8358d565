"""The rising ramp that a search in stages begins with: where it is run, and what it rules out."""

import math

import pytest

from lrtune.analysis.answer import best
from lrtune.analysis.report import report
from lrtune.search import advance
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Earlier, Proposal, Report, Trial, TrialState

STEPS = 1000


def job(**fields: object) -> JobSpec:
    wire = {"task": "digits", "metric": {"name": "val_loss", "goal": "minimize"}, "horizon": {"steps": STEPS}}
    return JobSpec.model_validate(wire | {"budget": {"full_runs": 10}, "confirm": {"top": 0}} | fields)


def asked(spec: JobSpec, history: list[Trial], *, continued: bool = True) -> Proposal:
    step = advance(spec, history, steps=STEPS, seconds=0.0, continued=continued)
    assert step.proposal
    return step.proposal


def ended(history: list[Trial], proposal: Proposal, state: str, value: float | None, told: list[Report]) -> Trial:
    horizon = round(proposal.fraction * STEPS)
    what = {"configuration": proposal.configuration, "role": proposal.role, "seed": proposal.seed}
    step = proposal.until or (told[-1].step if state == "diverged" else horizon)
    so_far = {"step": step, "until": proposal.until, "value": value, "reports": told}
    return Trial(number=len(history), state=TrialState(state), horizon=horizon, **what, **so_far)


def begun(spec: JobSpec) -> list[Trial]:
    """The baseline, over."""
    return [ended([], asked(spec, []), "complete", 1.0, [])]


def risen(spec: JobSpec, history: list[Trial], breaks: float, state: str = "complete", sign: float = 1.0) -> Trial:
    """The ramp, on which training gets better up to a rate and comes apart above it."""
    ramp = asked(spec, history)
    rates = ramp.configuration.learning_rates(round(ramp.fraction * STEPS))
    told = []
    for step in range(5, len(rates) + 1, 5):
        rate = rates[step - 1]
        value = 2.0 - min(math.log10(rate / rates[0]), 4.0) / 4 if rate <= breaks else 3.0
        told.append(Report(step=step, learning_rate=rate, metrics={"val_loss": sign * value}))
        if rate > breaks and state == "diverged":
            break
    return ended(history, ramp, state, sign * told[-1].metrics["val_loss"] if state == "complete" else None, told)


def test_after_the_baseline_the_rate_rises_through_each_optimizers_whole_range():
    spec = job(optimizers=["adamw", {"name": "sgd", "momentum": 0.9}], clip_norm=0.5)
    history = begun(spec)
    for name in ("adamw", "sgd"):
        ramp = asked(spec, history)
        space = spec.space().optimizers[name]["learning_rate"].options
        rates = ramp.configuration.learning_rates(100)
        assert (ramp.role, ramp.fraction, ramp.until) == ("ramp", 0.1, None)
        assert ramp.configuration.optimizer.as_dict()["name"] == name
        assert ramp.configuration.clip_norm == 0.5
        assert rates[0] == pytest.approx(min(space), rel=0.15)
        assert rates[-1] == pytest.approx(max(space), rel=0.15)
        assert ramp.reason.startswith("rising ramp: the rate climbs from ")
        history.append(risen(spec, history, 1e-2))
    assert asked(spec, history).role == "search"


@pytest.mark.parametrize("state", ["complete", "diverged"])
@pytest.mark.parametrize(("goal", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_first_looks_stay_below_the_rate_at_which_the_ramp_came_apart(state, goal, sign):
    spec = job(metric={"name": "val_loss", "goal": goal})
    history = begun(spec)
    history.append(risen(spec, history, 1e-3, state, sign))
    looks = []
    for _ in range(4):
        look = asked(spec, history)
        assert look.role == "search"
        looks.append(look.configuration.learning_rate)
        told = [Report(step=look.until or STEPS, learning_rate=0.1, metrics={"val_loss": sign * 2.0})]
        history.append(ended(history, look, "stopped", sign * 2.0, told))
    assert max(looks) <= 2e-3


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
def test_no_ramp_where_it_is_not_worth_its_cost(fields, continued):
    spec = job(**fields)
    history = begun(spec)
    if "horizon" in fields:
        history = [trial.model_copy(update={"horizon": 100, "step": 100}) for trial in history]
        step = advance(spec, history, steps=100, seconds=0.0)
        assert step.proposal
        assert step.proposal.role == "search"
    else:
        assert asked(spec, history, continued=continued).role == "search"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_ramp_that_did_not_come_to_its_end_rules_nothing_out(state):
    spec = job()
    history = begun(spec)
    whole = risen(spec, history, 1e-1)
    broken = whole.model_copy(update={"state": TrialState(state), "reports": whole.reports[:4], "value": None})
    plain = job(horizon={"steps": 100})  # too short for ramps
    assert asked(spec, [*history, broken]).configuration == asked(plain, [*history, broken]).configuration


def test_a_ramp_is_no_whole_run_of_the_jobs_own_space_which_comes_whatever_the_budget():
    spec = job(schedules=["exponential-growth"])
    history = begun(spec)
    history.append(risen(spec, history, 1e-3))
    first = asked(spec.model_copy(update={"budget": spec.budget.model_copy(update={"full_runs": 1.0})}), history)
    assert (first.role, first.until, first.fraction) == ("search", None, 1.0)


def test_what_earlier_jobs_teach_is_not_their_ramps():
    spec = job(schedules=["exponential-growth"], warm_start=True)
    history = begun(spec)
    ramp = risen(spec, history, 1.0)
    prior = [Earlier(job="job_1", trial=ramp)]
    with_ramp = advance(spec, history, steps=STEPS, seconds=0.0, prior=prior)
    assert with_ramp == advance(spec, history, steps=STEPS, seconds=0.0)


def test_a_ramp_is_no_answer_even_where_its_family_is_searched_and_the_report_says_what_it_cost():
    spec = job(schedules=["exponential-growth", "cosine"])
    history = begun(spec)
    history.append(risen(spec, history, 1e-3, "diverged"))
    found = best(spec, history, steps=STEPS, full_runs=1.1)
    assert found
    assert found.trial == 0
    told = report(spec, found, history)
    assert told.cost.ramp == pytest.approx(history[1].step / STEPS)
    assert told.saved.divergence == 0.0
    assert all(one.smallest_diverged is None for one in told.stability)
