"""A job that was done elsewhere: what `POST /v1/imports` takes.

It is checked as any job is, and is over as soon as it is stored: no worker ever trains it, unless it is extended.
"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from lrtune.wire import results
from lrtune.wire.configuration import Configuration, Strict, rejected
from lrtune.wire.external import finite
from lrtune.wire.job import LARGEST, JobSpec
from lrtune.wire.results import TrialState

MOST = 2000  # as many as fit into the largest body that a server accepts by default
MOST_REPORTS = 1000  # of a trial
Ended = Literal[TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED, TrialState.FAILED, TrialState.CANCELLED]
# Studies that were exported before a learning-rate range test was called that say "ramp".
Role = Annotated[results.Role, BeforeValidator(lambda role: "range-test" if role == "ramp" else role)]
Words = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]


class ImportedReport(Strict):
    """Metrics of a trial after `step` updates; null where one was not finite, or as good as that."""

    step: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(ge=0)] = 0.0
    metrics: Annotated[
        dict[
            Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")],
            Annotated[float | None, BeforeValidator(finite)],
        ],
        Field(max_length=100),
    ]


class ImportedTrial(Strict):
    """A trial that has ended elsewhere: what was trained, and what came out."""

    configuration: Configuration
    state: Ended
    value: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] | None = None
    reason: Words = ""
    role: Role = "search"
    why: Words = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    horizon: Annotated[int, Field(ge=2, le=100_000_000)]
    step: Annotated[int, Field(ge=0)] = 0
    reports: Annotated[list[ImportedReport], Field(max_length=MOST_REPORTS)] = []

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.value is None and self.state is TrialState.COMPLETE:
            raise rejected(("value",), "found none; accepted is the value of a complete trial", None)
        steps = [report.step for report in self.reports]
        if steps != sorted(set(steps)) or max([0, *steps]) > self.horizon:
            raise rejected(("reports",), f"accepted are steps that rise, up to the horizon of {self.horizon}", steps)
        if self.step > self.horizon:
            raise rejected(
                ("step",), f"found {self.step}; accepted is at most the horizon of {self.horizon}", self.step
            )
        return self


class ImportedJob(Strict):
    """A job and its trials, in the order in which they were made."""

    job: JobSpec
    trials: Annotated[list[ImportedTrial], Field(min_length=1, max_length=MOST)]
    source: Words = "elsewhere"
