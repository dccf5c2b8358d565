"""What a pruner that counts reports has stopped is not taken up again by a search in stages."""

import math

import pytest

from lrtune import search
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Report, Trial
from tests.simulated import begin, end, job, stop

STEPS = 200
THRESHOLD = {"name": "threshold", "upper": 0.62, "n_warmup_reports": 4}  # as nothing is so good after a quarter


def falling(trial: Trial) -> list[Report]:
    """A loss that falls to what the peak rate makes of it."""
    least = 0.4 + 0.1 * abs(math.log10(trial.configuration.learning_rate / 0.01))
    rows = [(place * trial.horizon // REPORTS, least + math.exp(-place / 6)) for place in range(1, REPORTS + 1)]
    return [Report(step=step, learning_rate=0.1, metrics={"loss": loss}) for step, loss in rows]


def carried_out(spec: AdmittedJob) -> tuple[list[int], list[int]]:
    """What a job's pruner, asked after every report, has stopped, and what was taken up of that."""
    history, stopped, again = list[Trial](), list[int](), list[int]()
    while not (step := search.advance(spec, history, steps=STEPS, seconds=0.0)).over:
        if step.proposal is None:
            stop(history, step)
            continue
        if step.proposal.resume in stopped:
            again.append(step.proposal.resume)
        trial = begin(history, step.proposal)
        until = trial.until or trial.horizon
        for report in (one for one in falling(trial) if trial.step < one.step <= until):
            trial = trial.model_copy(update={"reports": [*trial.reports, report], "step": report.step})
            history[trial.number] = trial
            if search.verdict(spec, history, trial, steps=STEPS).stop:
                stopped.append(trial.number)
                break
        found = {"step": trial.step, "value": trial.reports[-1].metrics["loss"]}
        if trial.step < until or trial.number in stopped:
            end(history, trial, "stopped", stopped_by="pruner", **found)
        else:
            end(history, trial, **found)
    return stopped, again


@pytest.mark.parametrize("pruner", [THRESHOLD, {"name": "percentile", "n_startup_trials": 1}, "successive-halving"])
def test_what_such_a_pruner_has_stopped_is_not_taken_up_again(pruner):
    """One trial was taken up 142 times, each time to be stopped at its next report: two thirds of the job's budget."""
    fields = {"budget": {"full_runs": 5}, "confirm": {"top": 0}, "schedules": ["cosine", "constant"]}
    stopped, again = carried_out(job("curve", pruner, steps=STEPS, **fields))
    assert stopped
    assert again == []
