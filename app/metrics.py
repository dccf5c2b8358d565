"""What Prometheus reads: requests as they happen, and jobs, trials and workers as the store has them at the scrape."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lrtune.store.census import Census

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
THOUGHT = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds
OTHER = "other"  # any other method, any path without a route: either can be any word, and would be series without end


class Requests:
    """Counts and times of requests, by route template. Time is up to the first byte: a stream may last for hours."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.count = Counter("lrtune_requests", "Requests.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram("lrtune_request_seconds", "Time to answer.", ["route"], registry=self.registry)
        thought = "Time that the server took for a decision of a search, by what it was: a suggestion or a verdict."
        self.thought = Histogram("lrtune_decision_seconds", thought, ["what"], buckets=THOUGHT, registry=self.registry)

    def seen(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Be told of a request, and of the template of its route where it has one."""
        self.count.labels(method if route and method in METHODS else OTHER, route or OTHER, status).inc()
        self.seconds.labels(route or OTHER).observe(seconds)

    def decided(self, what: str, seconds: float) -> None:
        """Be told how long a decision took."""
        self.thought.labels(what).observe(seconds)

    def page(self, census: Census, data_dir: Path) -> bytes:
        """Everything, as Prometheus reads it."""
        now = CollectorRegistry()
        now.register(_Now(census, data_dir))
        return generate_latest(self._of_all()) + generate_latest(now)

    def _of_all(self) -> CollectorRegistry:
        """What was counted here; where `lrtune serve` has started several processes, what all of them have counted."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        found = CollectorRegistry()
        MultiProcessCollector(found)  # type: ignore[no-untyped-call]
        return found


class Count:
    """Counts every request of an application, also those that end in an error that nobody foresaw.

    The route is the one that the application has found: the usual instrumentation looks for it once more.
    """

    def __init__(self, app: ASGIApp, *, requests: Requests) -> None:
        self.app, self.requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, seconds, status = time.perf_counter(), 0.0, 500

        async def timed(message: Message) -> None:
            nonlocal seconds, status
            if message["type"] == "http.response.start":
                seconds, status = time.perf_counter() - began, message["status"]
            await send(message)

        try:
            await self.app(scope, receive, timed)
        finally:
            route = getattr(scope.get("route"), "path", None)
            self.requests.seen(scope["method"], route, status, seconds or time.perf_counter() - began)


class _Now(Collector):
    def __init__(self, census: Census, data_dir: Path) -> None:
        self.census = census
        there = next(one for one in (data_dir.absolute(), *data_dir.absolute().parents) if one.exists())
        self.free = shutil.disk_usage(there).free

    def collect(self) -> Iterator[Metric]:
        one, hour = self.census, "in the last hour"
        for name, about, value in (
            ("workers", "Workers heard of lately.", one.workers),
            ("workers_busy", "Those of them that train; its average over a day times 24 are device hours.", one.busy),
            ("workers_wanted", "Workers that would find something to train.", one.wanted),
            ("queue_age_seconds", "Since the oldest job that is queued was submitted.", one.waiting),
            (
                "leases_lost",
                f"Trials whose worker or loop was not heard of for longer than its lease, {hour}.",
                one.lost,
            ),
            ("jobs_unserved", "Jobs that are queued and that no worker heard of lately can train.", one.unserved),
            ("data_free_bytes", "Room on the disk of LRTUNE_DATA_DIR.", self.free),
        ):
            yield GaugeMetricFamily(f"lrtune_{name}", about, value=value)
        for name, counts in (("jobs", self.census.jobs), ("trials", self.census.trials)):
            family = GaugeMetricFamily(f"lrtune_{name}", f"{name.capitalize()} by state.", labels=["state"])
            for state, count in counts.items():
                family.add_metric([state], count)
            yield family
