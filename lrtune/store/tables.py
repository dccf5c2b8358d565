"""The tables, as the migrations make them. A change here needs a migration in `migrations/versions/`.

A job has trials; a trial has one row per stage (an attempt to train it up to a step) and per report; events are a
job's log.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lrtune.store.database import JsonObject, Utc, Words
from lrtune.wire.people import ADMIN

Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only under INTEGER


LARGEST = 2**62  # the size of a job that has an answer: it comes after all that have none
UNFINISHED = "state in ('queued', 'running')"
SERVED = "kind in ('job-unserved', 'job-served', 'job-submitted')"


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index of some rows."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Base(DeclarativeBase):
    """Names for every constraint, so that a migration can find them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON, list[str]: JSON}


class JobRow(Base):
    """A job; `seq` orders jobs by age, `id` is what users see, `events` numbers its log.

    `decisions` counts what the search has decided, each a trial that began or was resumed, and what people have decided
    for it: a larger budget, or that it ends at `stopped_at`. Whoever writes down a decision names the count that it
    rests on, so that two workers never carry out the same one.

    Whose turn it is: `rank` is its priority, negated; `size` how many steps a job trains to its first answer (LARGEST
    once it has one), `served` the number of its owner's trials that was the last taken of it, `pace` how many seconds
    of a device a step takes. It needs a worker with this `device` and `memory_gb`, where it says so. The `thinker`
    looks for its next trials, until `thinking_until` at most; when its log was `thought` lines long there was nothing
    to do.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        Index(None, "owner", "state"),
        Index(None, "owner", "seq"),
        Index(None, "owner", "created_at"),
        _partial("ix_jobs_next", "owner", "rank", "size", "seq", where=UNFINISHED),
        _partial("ix_jobs_unserved", "owner", "served", "seq", where=UNFINISHED),
    )
    seq: Mapped[int] = mapped_column(Id, primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    owner: Mapped[str] = mapped_column(String(100), default=ADMIN, server_default=ADMIN)
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Words, default="")
    task: Mapped[str] = mapped_column(String(200), default="")  # its name, which a claim asks for
    spec: Mapped[dict[str, Any]] = mapped_column(JsonObject)
    release: Mapped[str] = mapped_column(String(40), default="", server_default="")  # that wrote the spec
    steps: Mapped[int | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(String(64))
    events: Mapped[int] = mapped_column(default=0)
    decisions: Mapped[int] = mapped_column(default=0, server_default="0")
    thinned: Mapped[bool] = mapped_column(default=False, server_default=false())  # its reports, as it is old
    rank: Mapped[int] = mapped_column(default=0, server_default="0")
    device: Mapped[str | None] = mapped_column(String(16))
    memory_gb: Mapped[float | None]
    size: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    served: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    pace: Mapped[float | None]
    thought: Mapped[int] = mapped_column(default=-1, server_default="-1")
    thinker: Mapped[str | None] = mapped_column(String(100))
    thinking_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class ShareRow(Base):
    """What the workers have done for an owner: `virtual` seconds, which are those of a device over the owner's weight.

    `taken` counts the trials that workers took. The owner "" is nobody: its `virtual` is that of the owner whose turn
    it was last, which is the least that an owner has who comes back.
    """

    __tablename__ = "shares"
    owner: Mapped[str] = mapped_column(String(100), primary_key=True)
    virtual: Mapped[float] = mapped_column(default=0.0, server_default="0")
    taken: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class TagRow(Base):
    """A tag of a job, for finding it."""

    __tablename__ = "tags"
    __table_args__ = (Index(None, "key", "value"),)
    job: Mapped[int] = mapped_column(ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class TrialRow(Base):
    """A trial: one configuration with one seed over one horizon, trained in one stage or in several.

    `token` and `lease_until` belong to the attempt that holds it, and are null when none does. The stage at hand goes
    from `start` (where the trial was paused last) to `until` (null: to its end) for the reason `stage_why`, and rests
    on the decision of the job's search with the number `decision`; the stages before it have cost `paid` steps.
    `step` is how far the trial has got; `reused` of these steps need no paying for, because other trials had trained
    them (below zero where a checkpoint was lost and steps were trained again): it has cost `step - reused` steps.

    A waiting trial with `blocked_by` is not to start while the trial of that `id` trains towards `blocked_until`.
    `deaths` counts the workers that died, and the loops that gave it back, since an attempt last began further than all
    before, after `furthest` steps.
    """

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("job", "number"),
        Index(None, "job", "state", "role"),
        Index(None, "job", "state", "horizon", "value"),
        _partial("ix_trials_waiting", "id", where="state = 'waiting'"),
        _partial("ix_trials_leased", "lease_until", where="state = 'running'"),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job: Mapped[int] = mapped_column(ForeignKey("jobs.seq", ondelete="CASCADE"))
    number: Mapped[int]
    role: Mapped[str] = mapped_column(String(16))
    why: Mapped[str] = mapped_column(Text, default="")
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Words, default="")
    stopped_by: Mapped[str | None] = mapped_column(String(16))
    configuration: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    horizon: Mapped[int]
    decision: Mapped[int] = mapped_column(default=0, server_default="0")
    stage_why: Mapped[str] = mapped_column(Text, default="", server_default="")
    start: Mapped[int] = mapped_column(default=0, server_default="0")
    until: Mapped[int | None]
    step: Mapped[int] = mapped_column(default=0)
    reused: Mapped[int] = mapped_column(default=0, server_default="0")
    paid: Mapped[int] = mapped_column(default=0, server_default="0")
    value: Mapped[float | None]
    attempt: Mapped[int] = mapped_column(default=0)
    token: Mapped[str | None] = mapped_column(String(40))
    lease_until: Mapped[datetime | None]
    blocked_by: Mapped[int | None] = mapped_column(BigInteger)
    blocked_until: Mapped[int] = mapped_column(default=0, server_default="0")
    deaths: Mapped[int] = mapped_column(default=0, server_default="0")
    furthest: Mapped[int] = mapped_column(default=0, server_default="0")
    worker: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class TallyRow(Base):
    """How many trials of a job in a role are in a state, and how many steps they have cost; open ones are left out."""

    __tablename__ = "tallies"
    job: Mapped[int] = mapped_column(ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), primary_key=True)
    trials: Mapped[int]
    steps: Mapped[int] = mapped_column(BigInteger)


class AttemptRow(Base):
    """One attempt to train a stage of a trial: one worker's hold on it.

    It was to go until step `until` (null: to the end of the trial) because of `why`, began after step `start` (less
    than where the trial was paused when that checkpoint was lost), got as far as `step`, and cost `cost` steps.
    `outcome` says how it ended: paused, finished, released, lost or cancelled. `checkpoint` is the row of the one that
    a loop of the user's own was given to go on from, and `loop` what that loop said of itself. `charged` are the
    seconds of a device that its owner's share was charged when it began; null where no worker trains it.
    """

    __tablename__ = "attempts"
    __table_args__ = (_partial("ix_attempts_lost", "ended_at", where="outcome = 'lost'"),)
    token: Mapped[str] = mapped_column(String(40), primary_key=True)
    trial: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    decision: Mapped[int] = mapped_column(default=0, server_default="0")
    worker: Mapped[str] = mapped_column(String(100))
    why: Mapped[str] = mapped_column(Text, default="", server_default="")
    start: Mapped[int] = mapped_column(default=0, server_default="0")
    until: Mapped[int | None]
    step: Mapped[int] = mapped_column(default=0, server_default="0")
    cost: Mapped[int] = mapped_column(default=0, server_default="0")
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(16))
    checkpoint: Mapped[int | None] = mapped_column(BigInteger)
    loop: Mapped[dict[str, Any] | None]
    charged: Mapped[float | None]


class WebhookRow(Base):
    """Who is told of a job's end, after so many tries; `next_at` is null once it has heard, or is given up."""

    __tablename__ = "webhooks"
    job: Mapped[int] = mapped_column(ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    tries: Mapped[int]
    next_at: Mapped[datetime | None] = mapped_column(index=True)


class LoopRow(Base):
    """A loop of the user's own that asks for trials of a job, and what it can go on from: see `wire/external.py`."""

    __tablename__ = "loops"
    job: Mapped[int] = mapped_column(ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    worker: Mapped[str] = mapped_column(String(100), primary_key=True)
    host: Mapped[str] = mapped_column(String(100))
    checkpoints: Mapped[str] = mapped_column(String(8))
    deterministic: Mapped[bool] = mapped_column(default=False, server_default=false())
    alive_until: Mapped[datetime]


class CheckpointRow(Base):
    """What a loop calls the checkpoint that it has kept of a trial after `step` steps.

    `host` is where it lies; null: any of the job's loops can read it. A `deterministic` one comes of a training that
    would be the same again, so that other trials may begin with it. It is needed while its trial may go on from this
    step, and for a while as the beginning of others; the loops hear of the others, so that they can delete them,
    and then the row goes.
    """

    __tablename__ = "checkpoints"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    trial: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), index=True)
    step: Mapped[int]
    name: Mapped[str] = mapped_column(String(1024))
    host: Mapped[str | None] = mapped_column(String(100))
    deterministic: Mapped[bool] = mapped_column(default=False, server_default=false())


class ReportRow(Base):
    """Metrics of a trial after `step` updates."""

    __tablename__ = "reports"
    trial: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    learning_rate: Mapped[float]
    reused: Mapped[bool] = mapped_column(default=False, server_default=false())
    metrics: Mapped[dict[str, Any]]


class EventRow(Base):
    """One line of a job's log."""

    __tablename__ = "events"
    __table_args__ = (_partial("ix_events_served", "job", "number", where=SERVED),)
    job: Mapped[int] = mapped_column(ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(40))
    message: Mapped[str] = mapped_column(Words)
    trial: Mapped[int | None]
    data: Mapped[dict[str, Any]]


class WorkerRow(Base):
    """A process that trains, on a device of a `kind` with so much memory, of which its host has `count`."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(16), default="", server_default="")
    memory_gb: Mapped[float | None]
    count: Mapped[int] = mapped_column(default=1, server_default="1")
    tasks: Mapped[list[str]]
    job: Mapped[str | None] = mapped_column(String(40))
    trial: Mapped[int | None]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)


class DatasetRow(Base):
    """An uploaded dataset; `id` is the digest of its bytes, `seq` orders by age, `description` is what was found.

    Several people may have uploaded the same bytes, which lie on the disk once.
    """

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("owner", "id"), UniqueConstraint("owner", "name"))
    seq: Mapped[int] = mapped_column(Id, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), index=True)
    owner: Mapped[str] = mapped_column(String(100), default=ADMIN, server_default=ADMIN)
    name: Mapped[str] = mapped_column(String(100), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class TaskRow(Base):
    """A task of somebody's own, as the last worker that has it announced it."""

    __tablename__ = "tasks"
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    summary: Mapped[str] = mapped_column(Text)
    params: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    ranges: Mapped[dict[str, Any]]
    steps: Mapped[int]
    command: Mapped[bool]
    seen_at: Mapped[datetime]


class DecisionRow(Base):
    """How many decisions of searches took workers so long, and their seconds: see `decisions.py`."""

    __tablename__ = "decisions"
    what: Mapped[str] = mapped_column(String(16), primary_key=True)
    bucket: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]


class PersonRow(Base):
    """Somebody with keys: jobs share the workers by their owners' `weight`; `quotas` are those of their own."""

    __tablename__ = "people"
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1")
    quotas: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]


class KeyRow(Base):
    """An API key: the SHA-256 of its long random text, and its `beginning` to recognise it by."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    person: Mapped[str] = mapped_column(ForeignKey("people.name"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    beginning: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditRow(Base):
    """One change, and who made it: `subject` is the job, dataset, key or person that was changed."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "actor", "at"),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(100), index=True)
    details: Mapped[dict[str, Any]]
