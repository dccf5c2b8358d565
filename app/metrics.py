"""What Prometheus reads: requests as they happen, and jobs, trials and workers as the store has them at the scrape."""

import time
from collections.abc import Iterator

from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lrtune.store.census import Census


class Requests:
    """Counts and times of requests, by route template: paths with ids in them would be series without end."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.count = Counter("lrtune_requests", "Requests.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram("lrtune_request_seconds", "Time to answer.", ["route"], registry=self.registry)

    def seen(self, scope: Scope, status: int, seconds: float) -> None:
        """Write down one request."""
        route = scope.get("route")
        template = route.path if isinstance(route, APIRoute) else "other"
        method = scope["method"] if template != "other" else "other"  # a method can be any word
        self.count.labels(method, template, str(status)).inc()
        self.seconds.labels(template).observe(seconds)

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
        for name, counts in (("jobs", self.census.jobs), ("trials", self.census.trials)):
            family = GaugeMetricFamily(f"lrtune_{name}", f"{name.capitalize()} by state.", labels=["state"])
            for state, count in counts.items():
                family.add_metric([state], count)
            yield family


class Measure:
    """Tells `Requests` of every request and its status. Time is up to the first byte: a stream may last for hours."""

    def __init__(self, app: ASGIApp, *, requests: Requests) -> None:
        self.app = app
        self.requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        began = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.requests.seen(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, measured)
