"""Traces of requests, as a real receiver of OpenTelemetry's protocol gets them over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.serving import served

TRACE = "0af7651916cd43dd8448eb211c80319c"


@contextmanager
def receiver() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Where traces are sent, and what came."""
    came: list[ExportTraceServiceRequest] = []

    class Receives(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receives) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "http://127.0.0.1:{1}".format(*server.server_address), came
        finally:
            server.shutdown()
            thread.join()


def test_a_request_is_a_span_that_continues_its_clients_trace(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as (address, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        with served(sqlite_url, traces=True) as service:
            service.get("/healthz")
            parent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            answer = service.get("/v1/jobs/job-0123456789abcdef", headers=parent)
            service.get("/v1/jobs")
        (resource,) = (one for batch in came for one in batch.resource_spans)
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "lrtune"
    missing, listed = (span for scope in resource.scope_spans for span in scope.spans)
    assert (missing.name, listed.name) == ("GET /v1/jobs/{job_id}", "GET /v1/jobs")
    assert missing.trace_id.hex() == TRACE
    said = {one.key: one.value for one in missing.attributes}
    assert (
        said["http.response.header.x_request_id"].array_value.values[0].string_value == answer.headers["x-request-id"]
    )
    assert 404 in {one.int_value for one in said.values()}


def test_without_the_setting_nothing_is_sent(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as (address, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with served(sqlite_url) as service:
            service.get("/v1/jobs")
    assert came == []
