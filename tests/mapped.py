"""A job with runs of all kinds, as workers leave them: complete ones, some cut short, a range test, a divergence."""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx

from lrtune.store import Database, jobs, leases, trials
from lrtune.wire.results import Proposal, Report, TrialState


def ran(url: str, job: str, rate: float, values: Sequence[float], *, end: TrialState, **more: Any) -> None:
    """Let a job have one more trial, with these values at evenly spaced steps of its 200, that ended so."""
    database, ttl = Database(url), timedelta(minutes=1)
    horizon, role = more.get("horizon", 200), more.get("role", "search")
    chosen = {"optimizer": "adamw", "learning_rate": rate, "schedule": more.get("schedule", "cosine")}
    rates = more.get("rates", [rate] * len(values))
    reports = [
        Report(step=horizon * place // 20, learning_rate=at, metrics={"val_accuracy": value, "val_loss": 1 - value})
        for place, (value, at) in enumerate(zip(values, rates, strict=True), start=1)
    ]
    with database.write() as tx:
        known = jobs.outline(tx, job).row.decisions
        asked = {"configuration": chosen, "role": role, "seed": 0, "horizon": horizon}
        assert trials.propose(tx, job, Proposal.model_validate(asked), known=known)
        lease = leases.claim(tx, "worker", ttl=ttl)
        assert lease is not None
        leases.report(tx, lease, reports, ttl=ttl)
        last = reports[-1].step
        value = None if end is TrialState.DIVERGED else values[-1]
        leases.finish(tx, lease, end, value=value, step=last, reason="" if end is TrialState.COMPLETE else "a test")
    database.dispose()


def learned(rate: float, reports: int = 20) -> list[float]:
    """An accuracy that comes near 1, fastest at 0.01."""
    off = abs(math.log10(rate / 0.01))
    return [1.0 - 0.9 * math.exp(-place * (1.2 - 0.5 * off) / 4) for place in range(1, reports + 1)]


def varied(service: httpx.Client, url: str) -> str:
    """The id of such a job, whose accuracy comes near its upper end."""
    body = {"task": "digits", "metric": {"name": "val_accuracy"}, "horizon": {"steps": 200}}
    job = str(service.post("/v1/jobs", json=body).json()["id"])
    ran(url, job, 0.001, learned(0.001), end=TrialState.COMPLETE, role="baseline")
    climbing = [1e-4 * 10 ** (place / 5) for place in range(20)]
    fall = [0.1 + 0.05 * place if rate < 0.2 else 0.1 for place, rate in enumerate(climbing)]
    ran(url, job, 1.0, fall, end=TrialState.COMPLETE, role="range-test", horizon=20, rates=climbing,
        schedule="exponential-growth")  # fmt: skip
    for rate in (0.003, 0.01, 0.03):
        ran(url, job, rate, learned(rate), end=TrialState.COMPLETE)
        ran(url, job, 1.4 * rate, learned(1.4 * rate, 6), end=TrialState.STOPPED, schedule="linear")
    ran(url, job, 0.8, [0.1, 0.1], end=TrialState.DIVERGED)
    return job
