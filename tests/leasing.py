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


def claim(database: Database, worker: str = "a", at: datetime = NOON) -> leases.Lease:
    """The oldest trial that waits; there must be one."""
    with database.write() as tx:
        lease = leases.claim(tx, worker, ttl=MINUTE, now=at)
    assert lease is not None
    return lease
