"""What a person may use: their own quotas, else those of the settings. A quota that is reached says its name.

Requests are counted here, in each server; the rest by what the database has, in the transaction that would add to it.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.problems import invalid
from app.settings import Settings
from lrtune.errors import QuotaReached
from lrtune.store import audit_log, datasets, people
from lrtune.store.database import clock
from lrtune.wire.job import AdmittedJob
from lrtune.wire.people import Caller, Person, Quotas
from lrtune.wire.results import JobState

MINUTE, HOUR, DAY = 60, 3600, 86_400
MOST = 2000  # people whose requests are counted
WAITING = (JobState.QUEUED, JobState.PAUSED)


def usual(settings: Settings) -> dict[str, Any]:
    """The quotas of the settings, which hold for whoever has none of their own."""
    return {name: getattr(settings, f"quota_{name}") for name in Quotas.model_fields}


class Requests:
    """How many requests each person has made in the minute at hand."""

    def __init__(self) -> None:
        self._minutes: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, person: str, quota: int | None, *, now: float | None = None) -> None:
        """One request more. Raises QuotaReached."""
        if quota is None:
            return
        now = time.monotonic() if now is None else now
        since, seen = self._minutes.get(person, (now, 0))
        if now - since >= MINUTE:
            since, seen = now, 0
        if seen >= quota:
            left = math.ceil(since + MINUTE - now)
            raise QuotaReached(f"requests_a_minute: {person} may make {quota} requests a minute", retry_after=left)
        self._minutes[person] = since, seen + 1
        self._minutes.move_to_end(person)
        if len(self._minutes) > MOST:
            self._minutes.popitem(last=False)


def of(tx: Session, settings: Settings, person: str) -> dict[str, Any]:
    """The quotas that hold for somebody, of whose requests one at a time may now use them."""
    return usual(settings) | people.own_quotas(tx, person, hold=True)


def admit(tx: Session, settings: Settings, caller: Caller, job: AdmittedJob) -> None:
    """Let somebody queue another job. Raises QuotaReached, Invalid."""
    quotas = of(tx, settings, caller.person)
    most = quotas["queued_jobs"]
    if most is not None and people.waiting_jobs(tx, caller.person, WAITING) >= most:
        words = f"queued_jobs: {caller.person} may have {most} job{'s' * (most != 1)} queued or paused, and has as many"
        raise QuotaReached(words, retry_after=MINUTE)
    _afford(tx, caller.person, quotas["full_runs_a_day"], job.most_runs)


def extend(tx: Session, settings: Settings, caller: Caller, more: float | None) -> None:
    """Let somebody give a job so many full runs more. Raises QuotaReached, Invalid."""
    _afford(tx, caller.person, of(tx, settings, caller.person)["full_runs_a_day"], more)


def _afford(tx: Session, person: str, most: float | None, asked: float | None) -> None:
    if most is None:
        return
    if asked is None:
        detail = (
            f"found none in full runs; {person} may ask for {most:g} a day, so accepted is a budget that bounds them"
        )
        raise invalid([{"pointer": "/budget/full_runs", "detail": detail}])
    now = clock(tx)
    had = audit_log.full_runs(tx, person, now=now)
    if had + asked <= most:
        return
    words = f"{person} may ask for {most:g} full runs within 24 hours; this asks for {asked:g}, after {had:g} before"
    if asked > most:
        raise QuotaReached(f"full_runs_a_day: {words}: more than a day ever has room for", retry_after=DAY)
    room = audit_log.down_to(tx, person, most - asked, now=now) + timedelta(seconds=1)  # what is a day old counts not
    words += f". There is room for it from {room:%Y-%m-%d %H:%M:%S} UTC on"
    raise QuotaReached(f"full_runs_a_day: {words}", retry_after=math.ceil((room - now).total_seconds()))


def upload(tx: Session, settings: Settings, person: str, size: int, *, hold: bool = True) -> None:
    """Let somebody keep so many bytes more. Raises QuotaReached."""
    most = (usual(settings) | people.own_quotas(tx, person, hold=hold))["upload_bytes"]
    if most is None:
        return
    left = max(0, most - datasets.taken(tx, person))
    if size > left:
        words = f"upload_bytes: {person} may keep {most:,} bytes of datasets, of which {left:,} are left"
        raise QuotaReached(f"{words}; this is {size:,}: remove some first", retry_after=HOUR)


def person(settings: Settings, row: Any) -> Person:
    """Somebody with the quotas that hold for them."""
    held: Mapping[str, Any] = usual(settings) | row.quotas
    return Person(name=row.name, weight=row.weight, quotas=dict(held), own=tuple(row.quotas), created_at=row.created_at)
