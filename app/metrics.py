"""What Prometheus reads: requests as they happen, and jobs, trials and workers as the store has them at the scrape."""

import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lrtune.store.census import Census
from lrtune.store.decisions import WITHIN

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
THOUGHT = "Time for a decision of a search, by what it was, a suggestion or a verdict, and by whom it was made."
DECISIONS = "lrtune_decision_seconds"
OTHER = "other"  # any other method, any path without a route: either can be any word, and would be series without end


class Requests:
    """Counts and times of requests, by route template. Time is up to the first byte: a stream may last for hours."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.count = Counter("lrtune_requests", "Requests.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram("lrtune_request_seconds", "Time to answer.", ["route"], registry=self.registry)
        self.thought = Histogram(DECISIONS, THOUGHT, ["what", "by"], buckets=WITHIN, registry=self.registry)

    def seen(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request, by the template of its route where it has one."""
        self.count.labels(method if route and method in METHODS else OTHER, route or OTHER, status).inc()
        self.seconds.labels(route or OTHER).observe(seconds)

    def decided(self, what: str, seconds: float) -> None:
        """Count a decision of the server's, and how long it took."""
        self.thought.labels(what, "server").observe(seconds)

    def page(self, census: Census, data_dir: Path) -> bytes:
        """Everything, as Prometheus reads it."""
        now = CollectorRegistry()
        now.register(_Now(census, data_dir, list(self._of_all().collect())))
        return generate_latest(now)

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
    def __init__(self, census: Census, data_dir: Path, counted: Iterable[Metric]) -> None:
        self.census, self.counted = census, {one.name: one for one in counted}
        there = next(one for one in (data_dir.absolute(), *data_dir.absolute().parents) if one.exists())
        self.free = shutil.disk_usage(there).free

    def _decisions(self) -> Metric:
        """The server's, counted as it made them, and those that the workers have written down."""
        family = HistogramMetricFamily(DECISIONS, THOUGHT, labels=["what", "by"])
        family.samples += self.counted[DECISIONS].samples if DECISIONS in self.counted else []
        ends = [floatToGoString(end) for end in (*WITHIN, math.inf)]  # type: ignore[no-untyped-call]
        for what, spent in self.census.decisions.items():
            buckets = list(zip(ends, map(float, accumulate(spent.counts)), strict=True))
            family.add_metric([what, "worker"], buckets, spent.seconds)
        return family

    def collect(self) -> Iterator[Metric]:
        yield from (one for name, one in self.counted.items() if name != DECISIONS)
        yield self._decisions()
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
