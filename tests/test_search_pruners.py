"""What stops a trial: what a live Optuna study would stop, from nothing but the trials."""

import random
import warnings

import optuna
import pytest
from optuna import pruners

from lrtune import search
from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Trial, TrialState
from tests import simulated

POINT = Configuration(optimizer=Adamw(), learning_rate=0.001, schedule=Cosine())

with warnings.catch_warnings():
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    LIVE = {  # name: the pruner of a job, Optuna's own, and where Optuna says its steps begin
        "median": (
            {"name": "median", "n_startup_trials": 3, "n_warmup_reports": 4},
            pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=4),
            0,
        ),
        "percentile": (
            {"name": "percentile", "percentile": 40.0, "n_startup_trials": 2},
            pruners.PercentilePruner(40.0, n_startup_trials=2),
            0,
        ),
        "successive-halving": (
            {"name": "successive-halving", "min_reports": 2, "reduction_factor": 3},
            pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
            1,
        ),
        "hyperband": ({"name": "hyperband"}, pruners.HyperbandPruner(1, 20, 3), 1),
        "patient": ({"name": "patient", "patience": 2, "min_delta": 0.05}, pruners.PatientPruner(None, 2, 0.05), 1),
        "threshold": (
            {"name": "threshold", "upper": 1.1, "lower": -1.1, "n_warmup_reports": 2},
            pruners.ThresholdPruner(lower=-1.1, upper=1.1, n_warmup_steps=2),
            0,
        ),
    }


def job(pruner: object, goal: str = "minimize") -> AdmittedJob:
    return simulated.job("tpe", pruner, steps=100, goal=goal)


def stop_reason(spec: AdmittedJob, history: list[Trial], trial: Trial) -> str | None:
    return search.verdict(spec, history, trial, steps=100).stop or None


def made(number: int, values: list[float | None], state: str = "complete", role: str = "search") -> Trial:
    fixed = {"configuration": POINT, "seed": 0, "horizon": 100, "step": 5 * len(values), "decision": number}
    value, reports = values[-1] if state == "complete" else None, simulated.evenly(values, 100)
    return Trial(number=number, role=role, state=TrialState(state), value=value, reports=reports, **fixed)


def curve(chance: random.Random, sign: float) -> list[float | None]:
    """A falling loss, noisy; now and then a report is not finite."""
    end, noise = chance.random(), 0.3 * chance.random()
    values = [sign * (end + (1.0 - i / 20) * 0.3 + chance.uniform(-noise, noise)) for i in range(20)]
    return [None if chance.random() < 0.02 else value for value in values[:-1]] + values[-1:]


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize("name", LIVE)
def test_what_is_stopped_is_what_a_live_study_stops(name, goal):
    wire, pruner, begins = LIVE[name]
    spec, chance = job(wire, goal), random.Random(3)
    live = optuna.create_study(study_name="lrtune", direction=goal, pruner=pruner)
    history: list[Trial] = []
    verdicts = []
    for first in range(0, 18, 3):  # three workers at a time
        running = {n: (live.ask(), curve(chance, -1.0 if goal == "maximize" else 1.0)) for n in range(first, first + 3)}
        history += [made(n, [], "running") for n in running]
        for report in range(1, 21):
            for number, (asked, values) in list(running.items()):
                history[number] = made(number, values[:report], "running")
                if (value := values[report - 1]) is not None:
                    asked.report(value, report - 1 + begins)
                    stop = bool(asked.should_prune())
                    assert bool(stop_reason(spec, history, history[number])) == stop, (number, report)
                    verdicts.append(stop)
                    if stop or report == 20:
                        end = "stopped" if stop else "complete"
                        history[number] = made(number, values[:report], end)
                        live.tell(
                            asked, None if stop else value, state=optuna.trial.TrialState[("COMPLETE", "PRUNED")[stop]]
                        )
                        del running[number]
    assert any(verdicts)
    assert not all(verdicts)


@pytest.mark.parametrize("role", ["baseline", "confirm"])
def test_a_baseline_or_confirming_trial_is_never_stopped(role):
    spec = job({"name": "threshold", "upper": 0.5})
    assert stop_reason(spec, [], made(0, [9.0], "running", role)) is None


def test_without_a_pruner_nothing_is_stopped():
    assert stop_reason(job("none"), [], made(0, [9.0], "running")) is None


def test_a_report_that_is_not_finite_says_nothing():
    spec = job({"name": "threshold", "upper": 0.5})
    said = stop_reason(spec, [], made(0, [9.0], "running"))
    assert said == "threshold pruner: 9 at report 1 of 20, accepted is below 0.5"
    assert stop_reason(spec, [], made(0, [9.0, None], "running")) is None


def test_the_reason_is_a_sentence_with_the_numbers():
    history = [made(number, [0.6, 0.4 + number / 100]) for number in range(5)]
    late = made(5, [0.7, 0.52], "running")
    said = stop_reason(job("median"), history, late)
    assert said == "median pruner: 0.52 at report 2 of 20, the median there is 0.42"


def test_confirming_runs_are_no_competition():
    spec = job({"name": "median", "n_startup_trials": 1})
    assert stop_reason(spec, [made(0, [0.5])], made(2, [0.6], "running"))
    assert stop_reason(spec, [made(0, [0.5], role="confirm")], made(2, [0.6], "running")) is None


def test_a_diverged_trial_counts_as_finished_but_only_as_far_as_it_came():
    spec = job({"name": "median", "n_startup_trials": 2})
    history = [made(0, [0.5, 0.5]), made(1, [0.1], "diverged")]
    assert stop_reason(spec, history, made(2, [0.4], "running"))  # the median of 0.5 and 0.1 is 0.3
    assert stop_reason(spec, history, made(2, [0.2, 0.4], "running")) is None
