"""A trial as a loop holds it, without a server: its reports are kept, and its end."""

from typing import Any

from lrtune.errors import JobFinished
from lrtune.loop import LoopTrial
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import Batch, Ending, Handout, Sent, Verdict
from lrtune.wire.job import Metric
from lrtune.wire.results import Role, Trial, TrialState, report_points

STEPS = 12
SHAPE: dict[str, Any] = {"learning_rate": 0.3, "schedule": {"family": "cosine", "final": 0.1}, "warmup": 0.25}
ADAMW: dict[str, Any] = SHAPE | {"optimizer": {"name": "adamw"}}
SGD: dict[str, Any] = SHAPE | {"optimizer": {"name": "sgd", "momentum": 0.0}}


class Door:
    """Hands one trial out, takes every report, and says to stop after `stop`."""

    def __init__(self, held: Handout, stop: int | None = None) -> None:
        self.held, self.stop, self.sent, self.taken = held, stop, list[Sent](), False
        self.end: Ending | None = None

    def take(self, job_id: str, **hold: object) -> Handout | None:
        if self.taken:
            raise JobFinished
        self.taken = True
        return self.held

    def tell(self, job_id: str, number: int, batch: Batch) -> Verdict:
        self.sent += batch.reports
        over = self.stop is not None and any(one.step >= self.stop for one in self.sent)
        return Verdict(decision="stop" if over else "continue", state=TrialState.RUNNING, step=0)

    def finish(self, job_id: str, number: int, ending: Ending) -> Trial:
        self.end = ending
        return self.held.trial


def handout(
    configuration: dict[str, Any], steps: int = STEPS, metric: str = "val_loss", role: Role = "search"
) -> Handout:
    found = Configuration.model_validate(configuration)
    trial = Trial(number=0, role=role, state=TrialState.RUNNING, configuration=found, seed=1, horizon=steps, reports=[])
    return Handout(
        trial=trial,
        metric=Metric(name=metric, goal="minimize"),
        token="token",
        lease_seconds=90,
        report_at=report_points(steps),
        learning_rates=found.learning_rates(steps),
        until=steps,
    )


def held(
    configuration: dict[str, Any], steps: int = STEPS, *, stop: int | None = None, metric: str = "val_loss"
) -> LoopTrial:
    found = handout(configuration, steps, metric)
    return LoopTrial(Door(found, stop), "job", found)


def rates(trial: LoopTrial, start: int = 0) -> list[float]:
    return [trial.learning_rate(step) for step in range(start, trial.steps)]
