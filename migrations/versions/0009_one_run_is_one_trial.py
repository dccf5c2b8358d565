"""One run is one trial, trained in stages: going up, the rows of a run's pieces are joined, going down, taken apart.

Before, every decision of the search was a row of `trials`, numbered in order: a first piece of a run, up to the step
`until`; a piece that goes on with it; the one that brings it to its end. Each began with a copy of the reports before
it, as credited steps. Now a run has one row, with the number of its first piece; each piece is a stage of it (a row
of `attempts`), and the number that it had is the number of the search's `decision`.

Revision: 0009, after 0008
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

RENAMED = (
    ("trials", "credited", "reused"),
    ("trials", "behind", "blocked_by"),
    ("trials", "behind_step", "blocked_until"),
    ("reports", "credited", "reused"),
)
ADDED = {
    "jobs": ("decisions",),
    "trials": ("decision", "stage_why", "start", "paid"),
    "attempts": ("decision", "why", "start", "until", "step", "cost"),
}
OVER = ("succeeded", "failed", "cancelled")

# The tables as they are after this migration: the data move under the new names, upwards and downwards.
TIME = sa.DateTime(timezone=True)
JOBS = sa.table("jobs", *map(sa.column, ("seq", "id", "state", "decisions")), sa.column("spec", sa.JSON()))
TRIALS = sa.table(
    "trials",
    *map(sa.column, ("id", "job", "number", "role", "why", "state", "reason", "seed", "horizon", "decision")),
    *map(sa.column, ("stage_why", "start", "until", "step", "reused", "paid", "value", "attempt", "token")),
    *map(sa.column, ("blocked_by", "blocked_until", "deaths", "furthest", "worker")),
    *(sa.column(name, TIME) for name in ("lease_until", "created_at", "started_at", "finished_at")),
    sa.column("configuration", sa.JSON()),
)
ATTEMPTS = sa.table(
    "attempts",
    *map(sa.column, ("token", "trial", "number", "decision", "worker", "why", "start", "until", "step", "cost")),
    *(sa.column(name, TIME) for name in ("started_at", "ended_at")),
    sa.column("outcome"),
)
REPORTS = sa.table(
    "reports",
    *map(sa.column, ("trial", "step", "learning_rate")),
    sa.column("reused", sa.Boolean()),
    sa.column("metrics", sa.JSON()),
)
EVENTS = sa.table("events", *map(sa.column, ("job", "number", "trial")))
WORKERS = sa.table("workers", *map(sa.column, ("id", "job", "trial")))

Row = dict[str, Any]


def upgrade() -> None:
    for table, old, new in RENAMED:
        op.alter_column(table, old, new_column_name=new)
    for table, names in ADDED.items():
        for name in names:
            op.add_column(table, _column(name))
    connection, ids = op.get_bind(), dict[int, int]()
    connection.execute(sa.update(TRIALS).where(TRIALS.c.role == "ramp").values(role="range-test"))
    for job in connection.execute(sa.select(JOBS)).all():
        ids |= _join(connection, job)
    _follow_blocking(connection, ids)


def downgrade() -> None:
    connection, ids = op.get_bind(), dict[int, int]()
    for job in connection.execute(sa.select(JOBS)).all():
        ids |= _take_apart(connection, job)
    _follow_blocking(connection, ids)
    connection.execute(sa.update(TRIALS).where(TRIALS.c.role == "range-test").values(role="ramp"))
    for table, names in ADDED.items():
        with op.batch_alter_table(table) as altered:
            for name in names:
                altered.drop_column(name)
    for table, old, new in RENAMED:
        op.alter_column(table, new, new_column_name=old)


def _column(name: str) -> sa.Column[Any]:
    match name:
        case "until":
            return sa.Column(name, sa.Integer(), nullable=True)
        case "why" | "stage_why":
            return sa.Column(name, sa.Text(), nullable=False, server_default="")
        case _:
            return sa.Column(name, sa.Integer(), nullable=False, server_default="0")


def _join(connection: sa.Connection, job: sa.Row[Any]) -> dict[int, int]:
    """Make one trial of each run of a job; for every row that is gone, the id of the one that took it in."""
    attempts, numbers, ids = _attempts(connection, job.seq), {}, {}
    rows = _trials(connection, job.seq)
    for pieces in _runs(rows):
        kept, tried = pieces[0]["id"], 0
        values = _joined(pieces, over=job.state in OVER)
        for piece in pieces:
            for attempt in attempts[piece["id"]]:
                last = attempt is attempts[piece["id"]][-1]
                stage = _stage(piece, attempt, last=last) | {"trial": kept, "number": tried + attempt["number"]}
                connection.execute(sa.update(ATTEMPTS).where(ATTEMPTS.c.token == attempt["token"]).values(stage))
            tried += piece["attempt"]
        for piece in pieces[1:]:
            had = sa.select(REPORTS.c.step).where(REPORTS.c.trial == kept)
            own = REPORTS.c.trial == piece["id"]
            connection.execute(sa.update(REPORTS).where(own, REPORTS.c.step.not_in(had)).values(trial=kept))
            connection.execute(sa.delete(REPORTS).where(own))
            connection.execute(sa.delete(TRIALS).where(TRIALS.c.id == piece["id"]))
            numbers[piece["number"]], ids[piece["id"]] = pieces[0]["number"], kept
        connection.execute(sa.update(TRIALS).where(TRIALS.c.id == kept).values(values))
    _renumber(connection, job, events=numbers, workers=numbers)
    decisions = rows[-1]["number"] + 1 if rows else 0
    connection.execute(sa.update(JOBS).where(JOBS.c.seq == job.seq).values(decisions=decisions))
    return ids


def _runs(rows: Sequence[Row]) -> list[list[Row]]:
    """The pieces of each run, in order. Only a stopped piece was gone on with: after any other a run begins anew.

    Trials that were imported are left as they are: nobody has attempted to train one.
    """
    latest: dict[str, list[Row]] = {}
    runs = []
    for row in rows:
        run = json.dumps([row["configuration"], row["seed"], row["horizon"], row["role"]], sort_keys=True)
        if run in latest and latest[run][-1]["state"] == "stopped" and latest[run][-1]["attempt"]:
            latest[run].append(row)
        else:
            latest[run] = [row]
            runs.append(latest[run])
    return runs


def _joined(pieces: Sequence[Row], *, over: bool) -> Row:
    """What a trial of these pieces is: the last one decides, and all of them have cost something.

    A last piece that has not begun, or not got anywhere, is made to stand where those before it ended.
    """
    *before, last = pieces
    start = max((piece["step"] for piece in before), default=0)
    paid = sum(piece["step"] - piece["reused"] for piece in before)
    if last["step"] == 0:
        last |= {"step": start, "reused": start}
    step, cost = last["step"], paid + last["step"] - last["reused"]
    same = ("state", "reason", "until", "value", "token", "lease_until", "worker", "finished_at", "deaths", "furthest")
    trial = {name: last[name] for name in (*same, "blocked_by", "blocked_until")}
    trial |= {"attempt": sum(piece["attempt"] for piece in pieces), "start": start, "paid": paid}
    trial |= {"decision": last["number"], "stage_why": last["why"], "step": step, "reused": step - cost}
    if _planned(last):
        at = f"step {step} of {last['horizon']}"
        trial |= {"start": step, "paid": cost}
        trial |= {"reason": f"the search ended with it paused at {at}"} if over else {}
        trial |= {} if over else {"state": "paused", "reason": f"trained until {at}, as planned", "finished_at": None}
    return trial


def _planned(piece: Row) -> bool:
    """Whether a piece ended because it had reached the step that it was to reach."""
    return piece["state"] == "stopped" and piece["until"] is not None and piece["step"] >= piece["until"]


def _stage(piece: Row, attempt: Row, *, last: bool) -> Row:
    """What an attempt at a piece was for; all that is known of how far it got belongs to the last one."""
    stage = {"decision": piece["number"], "why": piece["why"], "until": piece["until"]}
    if last:
        stage |= {"start": piece["reused"], "step": piece["step"], "cost": piece["step"] - piece["reused"]}
        stage |= {"outcome": "paused"} if _planned(piece) and attempt["outcome"] == "finished" else {}
    return stage


def _take_apart(connection: sa.Connection, job: sa.Row[Any]) -> dict[int, int]:
    """Make a row of each decision about the trials of a job; for every trial's id, the id of its last piece."""
    attempts = _attempts(connection, job.seq)
    runs = [(trial, _pieces(trial, attempts[trial["id"]])) for trial in _trials(connection, job.seq)]
    decided = sorted((piece for _, pieces in runs for piece, _ in pieces), key=lambda piece: piece["decision"])
    for number, piece in enumerate(decided):
        piece["number"] = number
    # Out of the way first: the number of a piece may be that of another trial until now.
    connection.execute(sa.update(TRIALS).where(TRIALS.c.job == job.seq).values(number=-1 - TRIALS.c.number))
    ids = {}
    for trial, pieces in runs:
        (first, _), *later = pieces
        for piece, _ in pieces[:-1]:
            piece["value"] = _value(connection, job, trial["id"], piece["step"])
        kept = TRIALS.c.id == trial["id"]
        connection.execute(sa.update(TRIALS).where(kept).values(first))
        for piece, tried in later:
            ids[trial["id"]] = connection.execute(sa.insert(TRIALS).values(piece).returning(TRIALS.c.id)).scalar_one()
            _copy_reports(connection, trial["id"], ids[trial["id"]], piece)
            for attempt in tried:
                moved = {"trial": ids[trial["id"]], "number": attempt["number"] - tried[0]["number"] + 1}
                connection.execute(sa.update(ATTEMPTS).where(ATTEMPTS.c.token == attempt["token"]).values(moved))
        if later:
            beyond = (REPORTS.c.trial == trial["id"]) & (REPORTS.c.step > first["step"])
            connection.execute(sa.delete(REPORTS).where(beyond))
    connection.execute(sa.update(ATTEMPTS).where(ATTEMPTS.c.outcome == "paused").values(outcome="finished"))
    begun = {trial["number"]: pieces[0][0]["number"] for trial, pieces in runs}
    latest = {trial["number"]: pieces[-1][0]["number"] for trial, pieces in runs}
    _renumber(connection, job, events=begun, workers=latest)
    return ids


def _pieces(trial: Row, attempts: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """The rows that the decisions about a trial were, without id, number and value, each with the attempts at it.

    A row before the last one is as its last attempt left it; the last row has what the trial has beyond these.
    """
    tried: dict[int, list[Row]] = defaultdict(list)
    for attempt in attempts:
        tried[attempt["decision"]].append(attempt)
    tried[trial["decision"]] += []  # nobody may have begun to carry it out
    *before, latest = sorted(tried)
    common = {name: value for name, value in trial.items() if name not in ("id", "number")}
    free = {"token": None, "lease_until": None, "blocked_by": None, "blocked_until": 0, "deaths": 0, "furthest": 0}
    pieces, paid, created_at = [], 0, trial["created_at"]
    for decision in before:
        ended = tried[decision][-1]
        piece = common | free | {name: ended[name] for name in ("decision", "why", "until", "step", "worker")}
        piece |= {"created_at": created_at, "finished_at": ended["ended_at"]} | _tries(tried[decision])
        piece |= {"state": "stopped", "reused": ended["step"] - ended["cost"]}
        at = f"step {ended['step']} of {trial['horizon']}"
        piece["reason"] = f"looked at until {at}, as planned" if _planned(piece) else f"stopped early at {at}"
        pieces.append((piece, tried[decision]))
        paid, created_at = paid + ended["cost"], ended["ended_at"]
    last = common | {"why": trial["stage_why"], "created_at": created_at}
    last["reused"] += paid  # of its steps, those before it were trained by the rows before it
    last |= _tries(tried[latest]) if before else {}
    if trial["state"] == "waiting":
        last |= {"step": 0, "reused": 0}
    if trial["state"] == "paused":
        last |= {"state": "stopped", "finished_at": tried[latest][-1]["ended_at"] if tried[latest] else created_at}
    return [*pieces, (last, tried[latest])]


def _tries(attempts: Sequence[Row]) -> Row:
    """How often somebody has tried to train a piece, and since when; a released attempt does not count."""
    started_at = attempts[0]["started_at"] if attempts else None
    return {"attempt": sum(one["outcome"] != "released" for one in attempts), "started_at": started_at}


def _copy_reports(connection: sa.Connection, whole: int, piece_id: int, piece: Row) -> None:
    """Give a later piece of a trial the reports up to its end; what it had for nothing is marked as such."""
    free = REPORTS.c.reused | (REPORTS.c.step <= piece["reused"])
    seen = sa.select(sa.literal(piece_id), REPORTS.c.step, REPORTS.c.learning_rate, free, REPORTS.c.metrics)
    seen = seen.where(REPORTS.c.trial == whole, REPORTS.c.step <= piece["step"])
    connection.execute(sa.insert(REPORTS).from_select(["trial", "step", "learning_rate", "reused", "metrics"], seen))


def _value(connection: sa.Connection, job: sa.Row[Any], trial: int, step: int) -> float | None:
    """What a trial of a job had come to after a step, where it was reported."""
    reported = sa.select(REPORTS.c.metrics).where(REPORTS.c.trial == trial, REPORTS.c.step == step)
    metrics = connection.execute(reported).scalar_one_or_none() or {}
    found: float | None = metrics.get(job.spec["metric"]["name"]) if job.spec.get("metric") else None
    return found


def _trials(connection: sa.Connection, job: int) -> list[Row]:
    rows = connection.execute(sa.select(TRIALS).where(TRIALS.c.job == job).order_by(TRIALS.c.number))
    return [dict(row) for row in rows.mappings()]


def _attempts(connection: sa.Connection, job: int) -> dict[int, list[Row]]:
    """The attempts at each trial of a job, in the order in which they were made."""
    found: dict[int, list[Row]] = defaultdict(list)
    query = sa.select(ATTEMPTS).join(TRIALS, TRIALS.c.id == ATTEMPTS.c.trial).where(TRIALS.c.job == job)
    for row in connection.execute(query.order_by(ATTEMPTS.c.started_at, ATTEMPTS.c.number)).mappings():
        found[row["trial"]].append(dict(row))
    return found


def _renumber(
    connection: sa.Connection, job: sa.Row[Any], *, events: Mapping[int, int], workers: Mapping[int, int]
) -> None:
    """Let the log of a job, and who works at it, name its trials by their numbers of now."""
    lines = sa.select(EVENTS.c.number, EVENTS.c.trial).where(EVENTS.c.job == job.seq)
    for number, trial in connection.execute(lines).all():
        if trial in events:
            line = (EVENTS.c.job == job.seq) & (EVENTS.c.number == number)
            connection.execute(sa.update(EVENTS).where(line).values(trial=events[trial]))
    working = sa.select(WORKERS.c.id, WORKERS.c.trial).where(WORKERS.c.job == job.id)
    for worker, trial in connection.execute(working).all():
        if trial in workers:
            connection.execute(sa.update(WORKERS).where(WORKERS.c.id == worker).values(trial=workers[trial]))


def _follow_blocking(connection: sa.Connection, ids: Mapping[int, int]) -> None:
    """Let trials that wait for another one, maybe of another job, wait for the row that stands for it now."""
    waiting = sa.select(TRIALS.c.id, TRIALS.c.blocked_by).where(TRIALS.c.blocked_by.is_not(None))
    for trial, blocked_by in connection.execute(waiting).all():
        if blocked_by in ids:
            connection.execute(sa.update(TRIALS).where(TRIALS.c.id == trial).values(blocked_by=ids[blocked_by]))
