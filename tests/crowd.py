"""A job with as many trials as one likes, as workers would have left it, but written in one go."""

import random
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session, aliased

from lrtune.store import Database, jobs, tallies
from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, JobRow, ReportRow, TrialRow
from lrtune.wire.job import AdmittedJob

STEPS, REPORTS = 1000, 50
MODELS = 200  # trials with reports of their own; those beyond have the reports of one of these
FAMILIES = ("cosine", "linear", "wsd", "step")


def crowded(database_url: str, *, trials: int, reports: int = REPORTS, **fields: Any) -> str:
    """A running job: trial 0 is the baseline, the last three confirm; some were stopped, the highest rates diverged."""
    database = Database(database_url)
    metric = {"name": "val_loss", "goal": "minimize"}
    given = {"task": "digits", "budget": {"full_runs": 2.0 * trials}, "metric": metric, "horizon": {"steps": STEPS}}
    spec = AdmittedJob.model_validate(given | fields)
    with database.write() as tx:
        job, _ = jobs.create(tx, spec)
        now = clock(tx)
        tx.execute(
            update(JobRow)
            .where(JobRow.id == job.id)
            .values(state="running", started_at=now - timedelta(hours=1), decisions=trials)
        )
        seq = tx.scalars(select(JobRow.seq).where(JobRow.id == job.id)).one()
        rows = [_trial(number, trials) for number in range(trials)]
        always = {"job": seq, "created_at": now, "started_at": now, "finished_at": now}
        tx.execute(insert(TrialRow), [always | row for row in rows])
        numbered = select(TrialRow.number, TrialRow.id).where(TrialRow.job == seq)
        ids = {row.number: row.id for row in tx.execute(numbered)}
        tx.execute(
            insert(ReportRow), [one for row in rows[:MODELS] for one in _reports(ids[row["number"]], row, reports)]
        )
        tx.execute(insert(AttemptRow), [_attempt(ids[row["number"]], row, now) for row in rows])
        _copied(tx, seq)
        tallies.ended(tx, TrialRow.job == seq)
    database.dispose()
    return job.id


def _copied(tx: Session, job: int) -> None:
    """Give the trials beyond the first few the reports of the one they are like."""
    model, copy = aliased(TrialRow), aliased(TrialRow)
    like = (model.job == job) & (copy.job == job) & (copy.number >= MODELS) & (model.number == copy.number % MODELS)
    columns = (ReportRow.step, ReportRow.learning_rate, ReportRow.metrics)
    found = select(copy.id, *columns).join(model, like).join(ReportRow, ReportRow.trial == model.id)
    tx.execute(insert(ReportRow).from_select(["trial", *(column.key for column in columns)], found))


def _trial(number: int, count: int) -> dict[str, Any]:
    chance = random.Random(number % MODELS)
    role = "baseline" if number == 0 else "confirm" if number >= count - 3 else "search"
    rate = 1e-3 if role != "search" else 10 ** chance.uniform(-4, -1)
    state = (
        "complete" if role != "search" else "diverged" if rate > 0.07 else "stopped" if number % 10 == 3 else "complete"
    )
    configuration = {
        "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01, "eps": 1e-8},
        "learning_rate": rate,
        "schedule": {"family": FAMILIES[number % 4] if role == "search" else "cosine"},
        "warmup": 0.05,
        "clip_norm": 1.0,
    }
    value = 0.2 + 40 * (rate - 0.02) ** 2 + 0.01 * chance.random()
    return {
        "number": number,
        "decision": number,
        "role": role,
        "why": f"reason {number}",
        "state": state,
        "reason": "" if state == "complete" else f"{state}: hopeless",
        "configuration": configuration,
        "seed": number,
        "horizon": STEPS,
        "step": STEPS if state == "complete" else STEPS // 2,
        "value": value if state == "complete" else None,
        "attempt": 1,
    }


def _attempt(trial: int, row: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Its one stage, of two seconds."""
    begun = now - timedelta(hours=1) + timedelta(seconds=row["number"] / 2)
    trained = {"token": f"{trial}", "trial": trial, "number": 1, "decision": row["number"], "worker": "worker"}
    ended = {"started_at": begun, "ended_at": begun + timedelta(seconds=2), "outcome": "finished"}
    return trained | ended | {"step": row["step"], "cost": row["step"]}


def _reports(trial: int, row: dict[str, Any], count: int) -> list[dict[str, Any]]:
    steps = [STEPS * place // count for place in range(1, count + 1) if STEPS * place // count <= row["step"]]
    rate, value = row["configuration"]["learning_rate"], row["value"] or 1.0
    return [
        {"trial": trial, "step": step, "learning_rate": rate, "metrics": {"val_loss": value + 50 / step}}
        for step in steps
    ]
