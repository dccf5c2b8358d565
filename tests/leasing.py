"""A plain job for tests of the store, its clock, and a worker's claim on one of its trials."""

from datetime import UTC, datetime, timedelta

from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine
from lrtune.store import Database, leases
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Horizon, Objective

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PLAIN = Configuration(optimizer=Adamw(), learning_rate=1e-3, schedule=Cosine())
SPEC = AdmittedJob(
    task="digits", metric=Objective(name="val_loss", goal="minimize", range=(0.0, None)), horizon=Horizon(steps=100)
)


def claimed(database: Database, worker: str, *, at: datetime = NOON, ttl: timedelta = MINUTE) -> leases.Lease | None:
    """The oldest trial that waits once what has expired is requeued, as who claims does; or None."""
    with database.write() as tx:
        leases.requeue(tx, now=at)
    with database.write() as tx:
        return leases.claim(tx, worker, ttl=ttl, now=at)


def claim(database: Database, worker: str = "a", at: datetime = NOON) -> leases.Lease:
    """The same, where there must be one."""
    lease = claimed(database, worker, at=at)
    assert lease is not None
    return lease
