"""What the service answers: jobs, trials, reports, the best configuration, plans and events, as they travel.

They are what the store makes of its rows, what the search decides on and what the client hands to users.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from lrtune.schedules import Curve
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, MetricRange, Objective
from lrtune.wire.people import ADMIN

REPORTS = 20  # evenly spaced points of every trial at which metrics are written


def report_points(steps: int) -> list[int]:
    """The steps after which a trial reports: evenly spaced, the last at the end, each step of a very short run."""
    return sorted({number * steps // REPORTS for number in range(1, REPORTS + 1)} - {0})


class JobState(StrEnum):
    """The life of a job."""

    QUEUED = "queued"  # no worker has taken a trial of it yet, or no loop of the user's own is at it any more
    RUNNING = "running"
    PAUSED = "paused"  # by the user; its trials were released
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # with a reason in words
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    """The life of a trial; every state but `complete` comes with a reason in words."""

    WAITING = "waiting"  # for a worker: new, released, or its worker died
    RUNNING = "running"
    PAUSED = "paused"  # after a planned stage; the search may resume it
    COMPLETE = "complete"
    STOPPED = "stopped"  # pruned, or paused and not gone on with
    DIVERGED = "diverged"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (JobState.QUEUED, JobState.RUNNING)
OVER = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
OPEN = (TrialState.WAITING, TrialState.RUNNING)
RESUMABLE = (TrialState.PAUSED, TrialState.STOPPED)
OBSERVED = (*RESUMABLE, TrialState.COMPLETE, TrialState.DIVERGED)  # something of what the configuration does
ENDED = (TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED, TrialState.FAILED, TrialState.CANCELLED)
Role = Literal["baseline", "range-test", "search", "confirm"]
Outcome = Literal["paused", "finished", "released", "lost", "cancelled"]
Stop = Literal["pruner", "forecast", "budget", "loop"]  # who ended a trial early, or what


class Result(BaseModel):
    """An answer of the service. Newer servers may add fields, so unknown ones are ignored."""

    model_config = ConfigDict(frozen=True)


class Report(Result):
    """Written at evenly spaced points of a trial: the rate of the last step, and metrics (null when not finite)."""

    step: int
    learning_rate: float
    metrics: dict[str, float | None]
    reused: bool = False  # the steps before it were trained by another trial, whose training this one shares


class RunId(NamedTuple):
    """What makes a run the run that it is: trained twice, it gives the same on the same kind of device."""

    configuration: Configuration
    seed: int
    horizon: int


class Stage(Result):
    """One attempt to train a stretch of a trial: until which step (null: to its end), why, by whom, how it ended.

    It began after `start` steps and got to `step`; `cost` is how many steps were trained for it. `decision` is the
    number of the search's decision that it carries out: where a worker died, several attempts share one.
    """

    attempt: int
    decision: int
    worker: str
    why: str = ""
    start: int = 0
    until: int | None = None
    step: int = 0
    cost: int = 0
    outcome: Outcome | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Trial(Result):
    """One configuration trained with one seed over one horizon (in steps): all of a schedule, in one or several stages.

    The stage at hand goes from step `start` to step `until` (null: to the end). `step` is how far it has got; `reused`
    of these steps need no paying for, because other trials had trained them (below zero where a checkpoint was lost and
    steps were trained again). `decision` is the number of the search's latest decision about it.
    """

    number: int
    role: Role
    why: str = ""  # it was chosen: the reason of its first stage
    stage_why: str = ""  # the reason of its latest stage
    state: TrialState
    reason: str = ""
    stopped_by: Stop | None = None
    configuration: Configuration
    seed: int
    horizon: int
    decision: int = 0
    start: int = 0
    until: int | None = None
    step: int = 0
    reused: int = 0
    value: float | None = None
    attempt: int = 0
    worker: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reports: list[Report] = []
    stages: list[Stage] = []

    @property
    def run(self) -> RunId:
        """The run that it trains."""
        return RunId(self.configuration, self.seed, self.horizon)

    @property
    def cost(self) -> int:
        """The steps that it has cost, or will have cost at the end of the stage that waits or runs."""
        return (self.until or self.horizon if self.state in OPEN else self.step) - self.reused

    @property
    def short(self) -> bool:
        """Whether it is shorter than the job's runs: a learning-rate range test."""
        return self.role == "range-test"

    def completed(self, steps: int) -> bool:
        """Whether it is a complete run over so many steps, with a value to compare."""
        return self.state is TrialState.COMPLETE and self.horizon == steps and self.value is not None

    def values(self, metric: str) -> list[tuple[int, float | None]]:
        """(step, value) of one metric at every report."""
        return [(report.step, report.metrics.get(metric)) for report in self.reports]


class TrialDetail(Trial):
    """A trial with its learning-rate curve: (step, learning rate) at evenly thinned steps."""

    curve: list[tuple[int, float]]


class Proposal(Result):
    """What to train next, and why: a new trial, or number `resume` after `start` steps (null: where it was paused).

    `horizon` counts the steps of its schedule; `until` is the step at which it pauses, null where it ends."""

    configuration: Configuration
    role: Role
    seed: int
    horizon: int
    resume: int | None = None
    start: int | None = None
    until: int | None = None
    reason: str = ""

    @property
    def run(self) -> RunId:
        """The run that it asks for."""
        return RunId(self.configuration, self.seed, self.horizon)


class NextStep(Result):
    """What a job needs next: a trial to begin or to resume, or nothing while others run; `over`: it is at its end.

    `more`: what others who wait may train beside that, in this order. `stopped`: the search is over and these trials do
    not go on, for these reasons; once that is written, there is a next step. Those in `behind` had a forecast no better
    than the best whole run. `failure`: why a job has no answer; `reason`: why one with an answer has budget left.
    """

    proposal: Proposal | None = None
    more: list[Proposal] = []
    stopped: dict[int, str] = {}
    behind: list[int] = []
    over: bool = False
    failure: str = ""
    reason: str = ""

    @property
    def nothing_to_do(self) -> bool:
        """Whether the job needs nothing but patience, and nobody needs to write anything."""
        return self == NextStep()


class Audits(Result):
    """What a job's log says of its stops: of which trials, which ran on to check the forecast, whether that is on.

    `stops` are by the pruner (of an `imported` job another's), by the search because its `forecast` was behind, by the
    end of the search (`budget`), or by the user's own `loop`; of a trial that is not named nobody knows.
    """

    trials: list[int] = []
    on: bool = True
    imported: bool = False
    stops: dict[int, Stop] = {}


class WarmStartTrial(Result):
    """A trial of an earlier job on the same task, which a new one may learn from."""

    job: str
    trial: Trial


class SeedValue(Result):
    """The value that one seed gave."""

    seed: int
    value: float


class Baseline(Result):
    """What the answer is compared with, over the same seeds: the user's `own` settings, where the job has them.

    Otherwise the untuned one: its optimizer's usual rate, cosine, 5 % warm-up. `diverged` seeds have no value.
    """

    configuration: Configuration
    own: bool = False
    value: float | None
    seeds: list[SeedValue] = []
    interval: tuple[float, float] | None = None
    diverged: int = 0


class Noise(Result):
    """By how much the answer's difference to the baseline varies from seed to seed.

    A standard deviation in the metric's unit, from the seeds that both ran and a little of all confirmed runs.
    """

    deviation: float
    freedom: float


class Best(Result):
    """The answer: the best configuration, its mean over fresh seeds with a 95 % interval, the baseline beside it.

    Intervals lie inside the metric's `range`; one run, or runs of one value, have none. `diverged` seeds have no value.
    """

    configuration: Configuration
    metric: str
    goal: Literal["minimize", "maximize"]
    range: MetricRange | None = None
    value: float
    seeds: list[SeedValue]
    interval: tuple[float, float] | None
    noise: Noise | None = None
    baseline: Baseline | None
    full_runs: float
    trial: int
    steps: int
    confirmed: bool
    diverged: int = 0

    @property
    def objective(self) -> Objective:
        """The metric that its value is of, with its goal and its range."""
        return Objective(name=self.metric, goal=self.goal, range=self.range)

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
    """A job as it is; `waiting_for` says why no worker can train it, `stopped_at` when people have ended its search."""

    id: str
    owner: str = ADMIN
    state: JobState
    reason: str = ""
    spec: AdmittedJob
    steps: int | None
    progress: Progress
    best: Best | None
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None = None
    finished_at: datetime | None
    waiting_for: str = ""


class Event(Result):
    """One line of a job's log; `id` rises by one within the job."""

    id: int
    at: datetime
    kind: str
    message: str
    trial: int | None = None
    data: dict[str, Any] = {}


class Worker(Result):
    """A process that trains, and what it is at: on a `device` of this `kind`, of which its host has `count`."""

    id: str
    host: str
    pid: int
    device: str
    kind: str = ""
    memory_gb: float | None = None
    count: int = 1
    tasks: list[str]
    job: str | None
    trial: int | None
    started_at: datetime
    seen_at: datetime


class TaskSummary(Result):
    """A task: its parameters as JSON Schema, its metrics with their goals, its usual horizon, the workers that have it.

    The first metric is what a job is about that names none; a horizon of 0 is one that the job has to name. `ranges`
    are those of the metrics whose lowest or highest value is known. A `command` of the workers' trains by itself.
    """

    name: str
    summary: str
    params: dict[str, Any]
    metrics: dict[str, Literal["minimize", "maximize"]]
    ranges: dict[str, MetricRange] = {}
    steps: int
    command: bool = False
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
    """What a job would do: the job with its defaults filled in, the space, the cost and the first curves.

    `notes` say what was taken for granted about its data, such as which column is the target.
    """

    spec: AdmittedJob
    space: dict[str, Any]
    cost: Cost
    first: list[FirstCurve]
    notes: list[str] = []


Item = TypeVar("Item")


class Page(Result, Generic[Item]):
    """Some items, and an opaque cursor to the next ones, or null."""

    items: list[Item]
    next: str | None = None
