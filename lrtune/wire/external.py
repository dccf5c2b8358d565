"""What travels between the service and a training loop of the user's own: a trial handed out, reports, the verdict.

The service only decides. Whoever holds a trial proves it with the token it came with; a heartbeat is a batch of no
reports.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from lrtune.wire.configuration import Strict
from lrtune.wire.job import Metric
from lrtune.wire.results import Result, Trial, TrialState

RATES = 100_000  # learning rates in one answer: those of a longer run come in several

Token = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
Reason = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$")]


def _finite(value: Any) -> Any:
    """What is not finite travels as null, which JSON has."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Seconds = Annotated[float, Field(ge=1, le=86_400)]


class Hold(Strict):
    """Who asks for a trial, and for how many seconds of silence it stays theirs."""

    worker: Name = "your loop"
    lease_seconds: Seconds = 90.0


class Handout(Result):
    """A trial to train, until a `finish` or a `stop`.

    `learning_rates` has the rate of each step, the first 100,000 of a longer run. The service asks for reports at the
    steps `report_at`; others are taken as well. The lease runs out after `lease_seconds` without a word.
    """

    trial: Trial
    metric: Metric
    token: str
    lease_seconds: float
    report_at: list[int]
    learning_rates: list[float]


class Sent(Strict):
    """Metrics measured after `step` updates; null is a value that is not finite."""

    step: Annotated[int, Field(ge=1, le=100_000_000)]
    metrics: Annotated[
        dict[Name, Annotated[float | None, BeforeValidator(_finite)]], Field(min_length=1, max_length=100)
    ]


class Batch(Strict):
    """Reports by rising step; none at all only says that the loop is alive, and will be for `lease_seconds` more."""

    token: Token
    lease_seconds: Seconds = 90.0
    reports: Annotated[list[Sent], Field(max_length=1000)] = []


class Verdict(Result):
    """Whether to go on. After `stop` the trial is no longer held: `state` is what became of it, `reason` says why.

    `learning_rates`, where it is not null, takes the place of the rates from step `step` (counted from 0) on.
    """

    decision: Literal["continue", "stop"]
    reason: str = ""
    state: TrialState
    step: int
    learning_rates: list[float] | None = None


class Ending(Strict):
    """How a trial ended; `waiting` gives it back untrained. `value` is the last report's when left out."""

    token: Token
    state: Literal["complete", "diverged", "failed", "waiting"] = "complete"
    value: float | None = None
    step: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    reason: Reason = ""


class Rates(Result):
    """The learning rates of the steps from `start` (counted from 0) on."""

    start: int
    learning_rates: list[float]
