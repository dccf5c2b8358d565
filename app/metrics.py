"""What Prometheus reads: requests as they happen, and jobs, trials and workers as the store has them at the scrape."""

import math
import shutil
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info

from lrtune.store.census import Census
from lrtune.store.decisions import WITHIN

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
THOUGHT = "Time for a decision of a search, by what it was, a suggestion or a verdict, and by whom it was made."
OTHER = "other"  # any other method, any path without a route: either can be any word, and would be series without end


class Requests:
    """Counts and times of requests, by route template. Time is up to the first byte: a stream may last for hours."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.count = Counter("lrtune_requests", "Requests.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram("lrtune_request_seconds", "Time to answer.", ["route"], registry=self.registry)
        self.thought = Histogram("lrtune_decision_seconds", THOUGHT, ["what", "by"], buckets=WITHIN, registry=None)

    def watch(self, app: FastAPI) -> None:
        """Be told of every request of an application, also of those that end in an error that nobody foresaw."""
        Instrumentator(should_group_status_codes=False, registry=self.registry).add(self._seen).instrument(app)

    def _seen(self, info: Info) -> None:
        known = info.modified_handler != "none"
        route = info.modified_handler if known else OTHER
        method = info.method if known and info.method in METHODS else OTHER
        self.count.labels(method, route, info.modified_status).inc()
        self.seconds.labels(route).observe(info.modified_duration_without_streaming or info.modified_duration)

    def decided(self, what: str, seconds: float) -> None:
        """Be told how long a decision of the server's took."""
        self.thought.labels(what, "server").observe(seconds)

    def page(self, census: Census, data_dir: Path) -> bytes:
        """Everything, as Prometheus reads it."""
        now = CollectorRegistry()
        now.register(_Now(census, data_dir, self.thought))
        return generate_latest(self.registry) + generate_latest(now)


class _Now(Collector):
    def __init__(self, census: Census, data_dir: Path, thought: Histogram) -> None:
        self.census, self.thought = census, thought
        there = next(one for one in (data_dir.absolute(), *data_dir.absolute().parents) if one.exists())
        self.free = shutil.disk_usage(there).free

    def _decisions(self) -> Metric:
        """The server's, counted as it made them, and those that the workers have written down."""
        family = HistogramMetricFamily("lrtune_decision_seconds", THOUGHT, labels=["what", "by"])
        family.samples += [sample for one in self.thought.collect() for sample in one.samples]
        ends = [floatToGoString(end) for end in (*WITHIN, math.inf)]  # type: ignore[no-untyped-call]
        for what, spent in self.census.decisions.items():
            buckets = list(zip(ends, map(float, accumulate(spent.counts)), strict=True))
            family.add_metric([what, "worker"], buckets, spent.seconds)
        return family

    def collect(self) -> Iterator[Metric]:
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
