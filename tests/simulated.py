"""A job's trials as the store would keep them, without a store: each proposal written down, then carried out."""

from collections.abc import Callable

from lrtune.search import advance
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, NextStep, Proposal, Report, Stage, Trial, TrialState

Loss = Callable[[Trial], list[Report]]  # every report that a trial would give on its way to its end


def job(
    sampler: object, pruner: object = "none", *, steps: int, goal: str = "minimize", **fields: object
) -> AdmittedJob:
    """A job on `digits` whose metric is `loss`."""
    wire = {
        "task": "digits",
        "metric": {"name": "loss", "goal": goal},
        "horizon": {"steps": steps},
        "search": {"sampler": sampler, "pruner": pruner, "seed": 7},
    }
    return AdmittedJob.model_validate(wire | fields)


def begin(history: list[Trial], asked: Proposal, state: str = "running") -> Trial:
    """Write a proposal down: a new trial, or the next stage of the one that it resumes."""
    decision = max((trial.decision for trial in history), default=-1) + 1
    if asked.resume is None:
        what = asked.model_dump(include={"role", "seed", "horizon", "until"}) | {"configuration": asked.configuration}
        history.append(Trial(number=len(history), why=asked.reason, state=state, decision=decision, **what))
        return history[-1]
    paused = history[asked.resume]
    assert paused.run == asked.run
    assert paused.state in (TrialState.PAUSED, TrialState.STOPPED)
    stage = {"why": asked.reason, "decision": decision, "start": paused.step, "until": asked.until}
    history[asked.resume] = paused.model_copy(update=stage | {"state": TrialState(state)})
    return history[asked.resume]


def end(history: list[Trial], trial: Trial, state: str | None = None, **found: object) -> Trial:
    """How the stage at hand of a trial ended: where it was to end, unless something else is said."""
    state = state or ("paused" if trial.until else "complete")
    found = {"step": trial.until or trial.horizon, "state": TrialState(state)} | found
    outcome = "paused" if state == "paused" else "finished"
    where = {"start": trial.start, "until": trial.until, "step": found["step"], "decision": trial.decision}
    stages = [*trial.stages, Stage(attempt=len(trial.stages) + 1, worker="w", outcome=outcome, **where)]
    history[trial.number] = trial.model_copy(update=found | {"stages": stages})
    return history[trial.number]


def train(history: list[Trial], asked: Proposal, loss: Loss, reused: int = 0) -> Trial:
    """Carry a proposal out, to the end of its stage; `reused` of its steps others have trained."""
    trial = begin(history, asked)
    reports = [report for report in loss(trial) if report.step <= (trial.until or trial.horizon)]
    value = None if trial.until else reports[-1].metrics["loss"]
    return end(history, trial, reports=reports, value=value, reused=trial.reused + max(reused - trial.start, 0))


def stop(history: list[Trial], step: NextStep) -> None:
    """Write down that the search is over for some paused trials."""
    for number, reason in step.stopped.items():
        assert history[number].state is TrialState.PAUSED
        by = "forecast" if number in step.behind else "budget"
        stopped = {"state": TrialState.STOPPED, "reason": reason, "stopped_by": by}
        history[number] = history[number].model_copy(update=stopped)


def carried_out(
    spec: AdmittedJob, loss: Loss, *, steps: int, reused: Callable[[list[Trial], Proposal], int] = lambda *_: 0
) -> list[Trial]:
    """A job that one worker carries out, to its end."""
    history: list[Trial] = []
    while not (step := advance(spec, history, steps=steps, seconds=0.0)).over:
        if step.proposal:
            train(history, step.proposal, loss, reused(history, step.proposal))
        else:
            stop(history, step)
    return history


def evenly(values: list[float], horizon: int) -> list[Report]:
    """Reports of a trial with these values, at the first so many of its points."""
    return [
        Report(step=place * horizon // REPORTS, learning_rate=0.1, metrics={"loss": value})
        for place, value in enumerate(values, start=1)
    ]
