"""What travels between the service and a training loop of the user's own: a trial handed out, reports, the verdict.

The service only decides. Whoever holds a trial proves it with the token it came with; a heartbeat is a batch of no
reports.
"""

import json
import operator
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from lrtune import errors
from lrtune.space import shown
from lrtune.wire.configuration import Strict, rejected
from lrtune.wire.job import Metric, usable
from lrtune.wire.results import Result, Trial, TrialState

RATES = 100_000  # learning rates in one answer: those of a longer run come in several

Token = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
Reason = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$")]


def scalar(value: Any) -> Any:
    """The Python number in what holds a single one (NumPy's, torch's, JAX's, TensorFlow's); all else as it is."""
    if value is None or type(value) in (bool, int, float, complex) or isinstance(value, str | bytes):
        return value
    try:
        if hasattr(value, "item"):
            return value.item()
        if hasattr(value, "__index__"):
            return operator.index(value)
        return float(value) if hasattr(value, "__float__") else value
    except Exception:  # several numbers, or none: whoever reads it says what would be accepted
        return value


def whole(value: Any) -> Any:
    """A step: a float that is whole is taken for the number that it is."""
    found = scalar(value)
    return int(found) if isinstance(found, float) and found.is_integer() else found


def finite(value: Any) -> Any:
    """A value of a metric; what is not finite, or as good as that, travels as null, which JSON has."""
    found = scalar(value)
    return None if type(found) in (int, float) and not usable(found) else found


def step_of(step: object, steps: int, *, start: int = 0) -> int:
    """A step of a run of so many that goes on from `start`, as a loop says it. Raises Invalid."""
    found = whole(step)
    if type(found) is not int or not 1 <= found <= steps:
        longer = type(found) is int and found > steps
        more = "; a run that is longer needs its number of steps as the job's `horizon`" if longer else ""
        raise errors.Invalid(
            f"step: found {shown(step)}; accepted is a whole number from 1 to {steps}, the steps of this run{more}"
        )
    if found < start:
        raise errors.Invalid(f"step: {elsewhere(found, start)}, as `trial.restore(...)` and `trial.start` say")
    return found


def elsewhere(step: int, start: int) -> str:
    """What a loop hears that goes on from another step than its checkpoint's."""
    return f"found {step}; this trial goes on from step {start}: train and report the steps after it"


def number_of(name: str, value: object) -> float | None:
    """A number as a loop says it: null where it is not finite, or as good as that. Raises Invalid."""
    found = scalar(value)
    if type(found) not in (int, float):
        raise errors.Invalid(f"{name[:60]}: found {shown(value)}; accepted is one number, such as `return loss`")
    return float(found) if usable(found) else None


def misnamed(step: int, metrics: Iterable[str], metric: str) -> str:
    """What a loop is told whose first report is not about the job's metric: what it sent, and what was expected."""
    found = ", ".join(sorted(metrics)) or "nothing"
    named = "report it first, or name in the job's metric what is reported"
    return f"found {found} at step {step}, but no report has {metric}, which this job is about; {named}"


def ended_by_loop(trial: Trial) -> bool:
    """Whether a loop of the user's own ended it before it was a whole run, rather than a pruner."""
    return trial.state is TrialState.STOPPED and trial.stopped_by == "loop"


def misplaced(metric: Metric, value: float | None) -> str:
    """What a loop is told whose value lies outside the range that its job declares; nothing for one inside it.

    A millionth beyond an end is rounding: a cross entropy in float32 comes out at -1e-8.
    """
    low, high = metric.limits
    if value is None or low - 1e-6 * max(1.0, abs(low)) <= value <= high + 1e-6 * max(1.0, abs(high)):
        return ""
    ends = json.dumps(metric.range)
    advice = 'report a share, or write "range": [0, 100] for percent' if (low, high) == (0, 1) else "correct the value"
    advice += "" if (low, high) == (0, 1) else ', or the "range", in which null is no end'
    return f"found {shown(value)}, but the job's metric {metric.name} has the range {ends}; {advice}"


LONGEST_LEASE = 3600.0  # seconds that a trial may be held without a word; a loop shows life each quarter of its lease
MOST_REPORTS = 10_000  # of one trial; beyond them only those are kept that the service asks for


def _lease(value: Any) -> Any:
    found = scalar(value)
    if isinstance(found, int | float) and found > LONGEST_LEASE:
        rule = (
            f"accepted is at most {LONGEST_LEASE:g}: a held trial must show life, and a report or an empty batch does"
        )
        raise ValueError(f"found {shown(found)} seconds; {rule}")
    return found


Seconds = Annotated[float, BeforeValidator(_lease), Field(ge=1, le=LONGEST_LEASE)]
Checkpoints: TypeAlias = Literal["none", "own", "shared"]
Checkpoint = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]


class Hold(Strict):
    """Who asks for a trial, for how many seconds of silence it stays theirs, and what they can go on from.

    With `checkpoints` trials are trained in stages: `own` ones lie on the disk of this `host` (the worker's name where
    it is left out, so loops on several hosts that say neither pass for one), `shared` ones where any of the job's loops
    can read them. `deterministic` promises that the same seed, rates and optimizer settings train the same network, so
    that a trial may begin at another's checkpoint.
    """

    worker: Name = "your loop"
    lease_seconds: Seconds = 90.0
    checkpoints: Checkpoints = "none"
    host: Name | None = None
    deterministic: bool = False

    @model_validator(mode="after")
    def _keeps(self) -> Self:
        if self.deterministic and self.checkpoints == "none":
            rule = 'accepted with "own" or "shared" ones, as there is nothing to begin a trial with otherwise'
            raise rejected(("deterministic",), f'found true with "checkpoints": "none"; {rule}', True)
        return self


def hold(**fields: Any) -> Hold:
    """What a loop in this process says of itself as it asks for a trial. Raises Invalid."""
    try:
        return Hold(**fields)
    except ValidationError as error:
        found = error.errors()[0]
        raise errors.Invalid(f"{found['loc'][0]}: {found['msg']}") from None


class Handout(Result):
    """A trial to train from step `start` to step `until`, or to a `stop`.

    `start` is 0, or the step of the `checkpoint` (as its loop called it) to go on from; a deterministic loop is given
    another trial's, too, which begins alike. At `until` the trial is at its end, or is to pause. `learning_rates` has
    the rate of each step from 0 on, the first 100,000 of a longer run. The service asks for reports at the steps
    `report_at`; others are taken as well. The lease runs out after `lease_seconds` without a word. What the checkpoints
    are called that can be deleted now stands in `forget`. The others are `needed`, and where room is short the first of
    them are to go first. `horizon` is the job's, in steps, which a trial of a shorter one does not reach. `stages`: of
    this job's trials some are to pause.
    """

    trial: Trial
    metric: Metric
    token: str
    lease_seconds: float
    report_at: list[int]
    learning_rates: list[float]
    start: int = 0
    until: int
    checkpoint: str | None = None
    forget: list[str] = []
    needed: list[str] = []
    horizon: int | None = None
    stages: bool = False

    @property
    def short(self) -> bool:
        """Whether it ends before the job's runs do: a learning-rate range test, or one of the job's `horizons`."""
        return self.trial.short or self.trial.horizon < (self.horizon or 0)


class Sent(Strict):
    """Metrics measured after `step` updates; null is a value that is not finite."""

    step: Annotated[int, BeforeValidator(whole), Field(ge=1, le=100_000_000)]
    metrics: Annotated[
        dict[Name, Annotated[float | None, BeforeValidator(finite)]], Field(min_length=1, max_length=100)
    ]


def sent(step: int, metrics: Mapping[str, float | None]) -> Sent:
    """A report of a loop in this process. Raises Invalid."""
    try:
        return Sent(step=step, metrics=dict(metrics))
    except ValidationError as error:
        raise errors.Invalid(f"metrics: {error.errors()[0]['msg']}") from None


class Batch(Strict):
    """Reports, each of another step; none at all only says that the loop is alive, and is for `lease_seconds` more.

    A trial's reports are a set by step: one that comes late fills its place, and a known one changes nothing. Beyond
    10,000 only those of the steps in `report_at`, and of the stage's end, are kept; the others show life. The first
    has the job's metric; those after it may leave it out. `start` says where the training really began, where that is
    before the handout's `start`: its checkpoint could not be read. `note` is a line for the job's log, such as how a
    process died that trains the trial; a trial has a hundred at most.
    """

    token: Token
    lease_seconds: Seconds = 90.0
    start: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    reports: Annotated[list[Sent], Field(max_length=1000)] = []
    note: Annotated[Reason, StringConstraints(min_length=1)] | None = None


class Verdict(Result):
    """Whether to go on. After `stop` the trial is no longer held: `state` is what became of it, `reason` says why.

    `pause` asks for a checkpoint, and for a `finish` with the state `paused` that names it: at the stage's end, and
    wherever it stands as its job is paused.

    `learning_rates`, where it is not null, takes the place of the rates from step `step` (counted from 0) on.
    """

    decision: Literal["continue", "pause", "stop"]
    reason: str = ""
    state: TrialState
    step: int
    learning_rates: list[float] | None = None


class Ending(Strict):
    """How a trial ended. `value` is what the metric came to after `step` updates.

    Left out, they are those of the last report; a value without any report is of the last step. A value is a report
    of its step, and changes nothing where that step has one. `complete` is a run with a value of its last step,
    and becomes `stopped` without one, or where `value` is of another `step`; a value that is not finite makes it
    `diverged`. A trial costs the steps that it says or has reported; one that diverged or was stopped and says
    nothing costs its whole run. `waiting` gives the trial back untrained. `paused` ends a stage, at its last step or
    before it: `checkpoint` is what the loop calls what it has kept.
    """

    token: Token
    state: Literal["complete", "stopped", "diverged", "failed", "waiting", "paused"] = "complete"
    value: Annotated[float | None, BeforeValidator(scalar)] = None
    step: Annotated[int, BeforeValidator(whole), Field(ge=0, le=100_000_000)] | None = None
    reason: Reason = ""
    checkpoint: Checkpoint | None = None

    @model_validator(mode="before")
    @classmethod
    def _diverged(cls, said: Any) -> Any:
        value = scalar(said.get("value")) if isinstance(said, Mapping) else None
        if value is None or type(value) not in (int, float) or usable(value):
            return said
        ended: dict[str, Any] = {"value": None}
        if said.get("state", "complete") in ("complete", "stopped"):
            ended |= {"state": "diverged", "reason": said.get("reason") or f"its value became {value}"}
        return {**said, **ended}


class Rates(Result):
    """The learning rates of the steps from `start` (counted from 0) on."""

    start: int
    learning_rates: list[float]
