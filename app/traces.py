"""A trace of every request by OpenTelemetry, where `LRTUNE_TRACES` says so; where it goes the variables OTEL_... say.

A span has the route, the status and the id of the request (`http.response.header.x_request_id`), and continues the
trace that a request came with (`traceparent`). Looks at `/healthz`, `/readyz` and `/metrics` have none.
"""

import os
from collections.abc import Callable

from fastapi import FastAPI

from app.tracing import HEADER
from lrtune import __version__
from lrtune.settings import end

MISSING = "LRTUNE_TRACES is true, and traces need OpenTelemetry: pip install 'lrtune[app,traces]'"
LEFT_OUT = "healthz,readyz,metrics,static"


def install(app: FastAPI) -> Callable[[], None]:
    """Send a trace of every request; what to call at the end. Ends the process, in words, without OpenTelemetry."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        end(MISSING)
    name = os.environ.get("OTEL_SERVICE_NAME", "lrtune")
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        excluded_urls=LEFT_OUT,
        exclude_spans=["receive", "send"],
        http_capture_headers_server_response=[HEADER],
    )
    return provider.shutdown
