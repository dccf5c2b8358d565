"""What Prometheus reads: requests as they happen, and jobs, trials and workers as the store has them at the scrape."""

from collections.abc import Iterator

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info

from lrtune.store.census import Census

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"  # any other method, any path without a route: either can be any word, and would be series without end


class Requests:
    """Counts and times of requests, by route template. Time is up to the first byte: a stream may last for hours."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.count = Counter("lrtune_requests", "Requests.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram("lrtune_request_seconds", "Time to answer.", ["route"], registry=self.registry)

    def watch(self, app: FastAPI) -> None:
        """Be told of every request of an application, also of those that end in an error that nobody foresaw."""
        Instrumentator(should_group_status_codes=False, registry=self.registry).add(self._seen).instrument(app)

    def _seen(self, info: Info) -> None:
        known = info.modified_handler != "none"
        route = info.modified_handler if known else OTHER
        method = info.method if known and info.method in METHODS else OTHER
        self.count.labels(method, route, info.modified_status).inc()
        self.seconds.labels(route).observe(info.modified_duration_without_streaming or info.modified_duration)

    def page(self, census: Census) -> bytes:
        """Everything, as Prometheus reads it."""
        now = CollectorRegistry()
        now.register(_Now(census))
        return generate_latest(self.registry) + generate_latest(now)


class _Now(Collector):
    def __init__(self, census: Census) -> None:
        self.census = census

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("lrtune_workers", "Workers heard of lately.", value=self.census.workers)
        yield GaugeMetricFamily("lrtune_workers_wanted", "Workers that would find a trial.", value=self.census.wanted)
        for name, counts in (("jobs", self.census.jobs), ("trials", self.census.trials)):
            family = GaugeMetricFamily(f"lrtune_{name}", f"{name.capitalize()} by state.", labels=["state"])
            for state, count in counts.items():
                family.add_metric([state], count)
            yield family
