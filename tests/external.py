"""A loop of the user's own as the tests write it: four calls over HTTP, and a clock that may be later."""

from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy import select

from lrtune.store import Database, leases
from lrtune.store.database import clock
from lrtune.store.tables import LoopRow

JOB: dict[str, Any] = {
    "task": "external",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "horizon": {"steps": 40},
    "budget": {"trials": 2},
    "confirm": {"top": 0},
}


def submit(door: httpx.Client, **fields: Any) -> str:
    answer = door.post("/v1/jobs", json=JOB | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def take(door: httpx.Client, job: str, **hold: Any) -> dict[str, Any]:
    answer = door.post(f"/v1/jobs/{job}/trials", json=hold)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def tell(door: httpx.Client, job: str, held: dict[str, Any], verb: str, **body: Any) -> httpx.Response:
    path = f"/v1/jobs/{job}/trials/{held['trial']['number']}/{verb}"
    return door.post(path, json={"token": held["token"]} | body)


def report(door: httpx.Client, job: str, held: dict[str, Any], step: int, value: float | None) -> dict[str, Any]:
    answer = tell(door, job, held, "reports", reports=[{"step": step, "metrics": {"val_loss": value}}])
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def pass_time(url: str, seconds: float) -> None:
    """Let the database's clock be later for whoever asks for expired leases, or for loops that are still there."""
    database = Database(url)
    with database.write() as tx:
        for loop in tx.scalars(select(LoopRow)):
            loop.alive_until -= timedelta(seconds=seconds)
        leases.requeue(tx, now=clock(tx) + timedelta(seconds=seconds))
    database.dispose()
