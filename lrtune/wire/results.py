"""What the service answers: jobs, trials, reports, the best configuration, plans and events, as they travel.

These are the values that the store reads its rows into and that the search decides on; the client hands them to users.
"""

import math
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from lrtune.schedules import Curve
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec, Metric

REPORTS = 20  # evenly spaced points of every trial at which metrics are written


def report_points(steps: int) -> list[int]:
    """The steps after which a trial reports: evenly spaced, the last at the end, each step of a very short run."""
    return sorted({number * steps // REPORTS for number in range(1, REPORTS + 1)} - {0})


class JobState(StrEnum):
    """The life of a job."""

    QUEUED = "queued"  # no worker has taken a trial of it yet
    RUNNING = "running"
    PAUSED = "paused"  # by the user; its trials were released
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # with a reason in words
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    """The life of a trial; every state but `complete` comes with a reason in words."""

    WAITING = "waiting"  # for a worker: new, released, or its worker died
    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"  # pruned
    DIVERGED = "diverged"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (JobState.QUEUED, JobState.RUNNING)
OVER = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
ENDED = (TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED, TrialState.FAILED, TrialState.CANCELLED)
Role = Literal["baseline", "ramp", "search", "confirm"]


class Result(BaseModel):
    """An answer of the service. Newer servers may add fields, so unknown ones are ignored."""

    model_config = ConfigDict(frozen=True)


class Report(Result):
    """Written at evenly spaced points of a trial: the rate of the last step, and metrics (null when not finite).

    `credited`: the steps before it were trained by another trial, whose training this one shares.
    """

    step: int
    learning_rate: float
    metrics: dict[str, float | None]
    credited: bool = False


class Trial(Result):
    """One configuration trained with one seed over one horizon (in steps), always a whole schedule.

    With `until` it is only looked at: it trains that many steps of its whole schedule, and is then stopped. `credited`
    steps had been trained by other trials, and cost nothing.
    """

    number: int
    role: Role
    why: str = ""  # it was chosen
    state: TrialState
    reason: str = ""
    configuration: Configuration
    seed: int
    horizon: int
    until: int | None = None
    step: int = 0
    credited: int = 0
    value: float | None = None
    attempt: int = 0
    worker: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reports: list[Report] = []

    @property
    def cost(self) -> int:
        """The steps it has cost, or may still cost while it has not ended."""
        return (self.step if self.state in ENDED else self.until or self.horizon) - self.credited

    def values(self, metric: str) -> list[tuple[int, float | None]]:
        """(step, value) of one metric at every report."""
        return [(report.step, report.metrics.get(metric)) for report in self.reports]

    def factor(self, metric: Metric | None) -> Callable[[int], float]:
        """The factor of the peak rate at each step, as the reports so far leave it."""
        return self.followed(metric).over(self.horizon)

    def followed(self, metric: Metric | None) -> Curve:
        """The curve it follows; a schedule that looks at the loss is replayed from the reports so far."""
        seen = self.values(metric.name) if metric else []
        sign = metric.sign if metric else 1.0
        reports = [(step, math.inf if value is None else sign * value) for step, value in seen]
        return self.configuration.curve.after(reports, self.horizon)


class TrialDetail(Trial):
    """A trial with its learning-rate curve: (step, learning rate) at evenly thinned steps."""

    curve: list[tuple[int, float]]


class Proposal(Result):
    """What to try next: a configuration over `fraction` of the job's horizon, and why, in words.

    `until` is how many steps of it to train for a look; None is all of them.
    """

    configuration: Configuration
    role: Role
    seed: int
    fraction: float = 1.0
    until: int | None = None
    reason: str = ""


class Audits(Result):
    """What a job's log says of the forecast pruner: the trials that ran on to check it, and whether it is on."""

    trials: list[int] = []
    on: bool = True


class Earlier(Result):
    """A trial of an earlier job on the same task, which a new one may learn from."""

    job: str
    trial: Trial


class SeedValue(Result):
    """The value that one seed gave."""

    seed: int
    value: float


class Baseline(Result):
    """The untuned configuration: the optimizer's usual rate, cosine, 5 % warm-up; over the same seeds."""

    configuration: Configuration
    value: float | None
    seeds: list[SeedValue] = []
    interval: tuple[float, float] | None = None


class Best(Result):
    """The answer: the best configuration, its mean over fresh seeds with a 95 % interval, the baseline beside it."""

    configuration: Configuration
    metric: str
    goal: Literal["minimize", "maximize"]
    value: float
    seeds: list[SeedValue]
    interval: tuple[float, float] | None
    baseline: Baseline | None
    full_runs: float
    trial: int
    steps: int
    confirmed: bool

    @property
    def schedule(self) -> Curve:
        """`schedule.over(steps)` gives the factor of the peak rate at each step; torch's LambdaLR takes it as it is."""
        return self.configuration.curve


class Progress(Result):
    """How far a job is. Costs are counted in full runs."""

    phase: Literal["search", "confirm", "over"]
    trials: dict[TrialState, int]
    full_runs: float
    planned_full_runs: float | None
    fraction: float


class Job(Result):
    """A job as it stands."""

    id: str
    state: JobState
    reason: str = ""
    spec: JobSpec
    steps: int | None
    progress: Progress
    best: Best | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Event(Result):
    """One line of a job's log; `id` rises by one within the job."""

    id: int
    at: datetime
    kind: str
    message: str
    trial: int | None = None
    data: dict[str, Any] = {}


class Worker(Result):
    """A process that trains, and what it is at."""

    id: str
    host: str
    pid: int
    device: str
    tasks: list[str]
    job: str | None
    trial: int | None
    started_at: datetime
    seen_at: datetime


class TaskSummary(Result):
    """A task: its parameters as JSON Schema, its metrics with their goals, its usual horizon, the workers that have it.

    The first metric is what a job is about that names none; a horizon of 0 is one that the job has to name.
    """

    name: str
    summary: str
    params: dict[str, Any]
    metrics: dict[str, Literal["minimize", "maximize"]]
    steps: int
    workers: int = 0


class Cost(Result):
    """What a job will take at most, in full runs, and in optimizer steps where the horizon is known."""

    search_full_runs: float | None
    confirm_full_runs: float
    total_full_runs: float | None
    total_steps: int | None


class FirstCurve(Result):
    """A configuration that would be tried, with its curve: (progress, learning rate)."""

    configuration: Configuration
    reason: str
    curve: list[tuple[float, float]]


class Plan(Result):
    """What a job would do: the job with its defaults filled in, the space, the cost and the first curves."""

    spec: JobSpec
    space: dict[str, Any]
    cost: Cost
    first: list[FirstCurve]


Item = TypeVar("Item")


class Page(Result, Generic[Item]):
    """Some items, and an opaque cursor to the next ones, or null."""

    items: list[Item]
    next: str | None = None
