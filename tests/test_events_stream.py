"""A job's log as server-sent events: nothing lost over a broken connection, and it ends with the job or the server."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.routes import events as route
from lrtune.store import events
from lrtune.wire.results import Event
from tests import processes
from tests.serving import KEY, reached, served

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def service(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


def submitted(service: httpx.Client) -> str:
    return "/v1/jobs/" + str(service.post("/v1/jobs", json={"task": "digits"}).json()["id"])


def messages(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The messages of an event stream, each as its fields."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif fields:
            yield fields
            fields = {}


def test_the_stream_says_what_the_page_says_and_ends_with_the_job(service: httpx.Client) -> None:
    job = submitted(service)
    for verb in ("pause", "resume", "cancel"):
        service.post(f"{job}/{verb}")
    page = service.get(f"{job}/events").json()
    with service.stream("GET", f"{job}/events", headers=STREAM) as response:
        found = list(messages(response))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [Event.model_validate_json(one["data"]) for one in found] == [Event(**one) for one in page["items"]]
    assert [(one["id"], one["event"]) for one in found] == [
        ("1", "job-submitted"),
        ("2", "job-paused"),
        ("3", "job-queued"),
        ("4", "job-cancelled"),
    ]


def test_a_stream_that_broke_goes_on_where_it_was(service: httpx.Client) -> None:
    job = submitted(service)
    seen: list[str] = []
    for round_ in range(6):
        last = {"Last-Event-ID": seen[-1]} if seen else {}
        with service.stream("GET", f"{job}/events", headers=STREAM | last) as response:
            for message in messages(response):
                seen.append(message["id"])
                if len(seen) > 2 * round_:
                    break  # the connection breaks after one message; two more events happen meanwhile
        service.post(f"{job}/pause")
        service.post(f"{job}/resume")
    service.post(f"{job}/cancel")
    with service.stream("GET", f"{job}/events", headers=STREAM | {"Last-Event-ID": seen[-1]}) as response:
        seen += [message["id"] for message in messages(response)]
    assert seen == [str(number) for number in range(1, 15)]


def test_what_happens_while_somebody_looks_is_told(service: httpx.Client) -> None:
    job = submitted(service)
    with service.stream("GET", f"{job}/events", headers=STREAM) as response:
        told = messages(response)
        assert next(told)["event"] == "job-submitted"
        service.post(f"{job}/cancel")
        assert [one["event"] for one in told] == ["job-cancelled"]


def test_the_page_and_the_header_start_behind_an_event(service: httpx.Client) -> None:
    job = submitted(service)
    service.post(f"{job}/cancel")
    assert [one["id"] for one in service.get(f"{job}/events", params={"after": 1}).json()["items"]] == [2]
    first = service.get(f"{job}/events", params={"limit": 1}).json()
    assert (first["items"][0]["id"], first["next"]) == (1, "1")
    for asked in ({"params": {"after": 1}}, {"headers": {"Last-Event-ID": "1"}}):
        asked["headers"] = STREAM | asked.get("headers", {})
        with service.stream("GET", f"{job}/events", **asked) as response:
            assert [one["id"] for one in messages(response)] == ["2"]


def test_a_quiet_stream_is_kept_open_with_comments(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "POLL", 0.01)
    monkeypatch.setattr(route, "KEEPALIVE", 0.05)
    with (
        served(sqlite_url) as service,
        service.stream("GET", f"{submitted(service)}/events", headers=STREAM) as response,
    ):
        assert any(line.startswith(":") for line in response.iter_lines())


def test_a_stream_outlives_a_database_that_is_away(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    asked, page = 0, events.page

    def away(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked in (2, 4):  # the first asks whether there is such a job
            raise OperationalError("select", None, Exception("the server closed the connection"))
        return page(*args, **kwargs)

    monkeypatch.setattr(route, "POLL", 0.01)
    with served(sqlite_url) as service:
        job = submitted(service)
        service.post(f"{job}/cancel")
        monkeypatch.setattr(route.events, "page", away)
        with service.stream("GET", f"{job}/events", headers=STREAM) as response:
            assert [one["id"] for one in messages(response)] == ["1", "2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_with_open_streams_stops_when_told_to(sqlite_url: str, tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ("uvicorn", "--factory", "app.main:create_app", "--port", str(port))
    settings = {"LRTUNE_DATABASE_URL": sqlite_url, "LRTUNE_API_KEY": KEY, "LRTUNE_CREDENTIALS": str(tmp_path / "key")}
    server = processes.start(*command, environment=settings, log=tmp_path / "server.log")
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as service:
            reached(service, server)
            with service.stream("GET", f"{submitted(service)}/events", headers=STREAM, timeout=30) as response:
                told = messages(response)
                assert next(told)["id"] == "1"
                assert server.pid
                os.kill(server.pid, number)
                assert list(told) == [], "the stream ends, and whole"
        server.join()
        assert server.exitcode in (0, -number), "uvicorn raises the signal again once it has stopped"
    finally:
        server.kill()
        server.join()
