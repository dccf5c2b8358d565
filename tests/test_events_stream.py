"""A job's log as server-sent events: nothing lost over a broken connection, and it ends with the job or the server."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import watching
from app.routes import events as route
from lrtune.store import Database, events, lookup
from lrtune.store.database import clock
from lrtune.wire.results import Event
from tests import processes
from tests.serving import KEY, reached, served
from tests.test_statements import counted

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
        if name:  # a comment has none, and is no part of a message
            fields[name] = value
        elif not line and fields:
            yield fields
            fields = {}


class Looks:
    """How often the server has looked at what is followed."""

    def __init__(self) -> None:
        self._count, self._more = 0, threading.Condition()

    def add(self) -> None:
        with self._more:
            self._count += 1
            self._more.notify_all()

    def wait(self, count: int) -> bool:
        """Whether it has done so this often from now on."""
        with self._more:
            enough = self._count + count
            return self._more.wait_for(lambda: self._count >= enough, 60)


def counting(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks, asked = Looks(), watching.Watch._asked

    def ask(self: watching.Watch, *args: Any) -> Any:
        looks.add()
        return asked(self, *args)

    monkeypatch.setattr(watching.Watch, "_asked", ask)
    return looks


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

    monkeypatch.setattr(route, "AWAY", 0.01)
    with served(sqlite_url) as service:
        job = submitted(service)
        service.post(f"{job}/cancel")
        monkeypatch.setattr(route.events, "page", away)
        with service.stream("GET", f"{job}/events", headers=STREAM) as response:
            assert [one["id"] for one in messages(response)] == ["1", "2"]


def test_streams_cost_as_many_statements_as_one_while_nothing_happens(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each follows a job of its own; and all of them are told when something does happen."""
    monkeypatch.setattr(watching, "TICK", 0.01)
    monkeypatch.setattr(watching, "SURE", 0.0)  # all of them are asked for, each time that there is a look
    found = []
    with served(database_url) as service, ExitStack() as opened:
        for count in (1, 40):
            jobs = [submitted(service) for _ in range(count)]
            streams = [opened.enter_context(service.stream("GET", f"{job}/events", headers=STREAM)) for job in jobs]
            told = [messages(stream) for stream in streams]
            assert [next(one)["event"] for one in told] == ["job-submitted"] * count
            looks = counting(monkeypatch)
            assert looks.wait(3)
            with counted() as seen:
                assert looks.wait(10)
            found.append(len(seen) / 10)
            for job in jobs:
                service.post(f"{job}/cancel")
            assert [[one["event"] for one in each] for each in told] == [["job-cancelled"]] * count
    assert max(found) <= 2, "one statement for all, each time, and what else a server looks after"


@pytest.mark.parametrize("lines", [1, 2 * watching.KEPT + 10])
def test_a_log_is_read_once_for_all_who_follow_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """And nobody misses a line or hears it twice, also of more than are kept at hand."""
    monkeypatch.setattr(watching, "SURE", 0.1)
    database = Database(database_url)
    with served(database_url) as service, ExitStack() as opened:
        job = submitted(service)
        streams = [opened.enter_context(service.stream("GET", f"{job}/events", headers=STREAM)) for _ in range(20)]
        told = [messages(stream) for stream in streams]
        for each in told:
            next(each)
        assert counting(monkeypatch).wait(3)
        with counted() as seen:
            with database.write() as tx:
                seq = lookup.job(tx, job.rpartition("/")[2]).seq
                for number in range(lines):
                    events.add(tx, seq, "noted", f"line {number}", now=clock(tx))
            service.post(f"{job}/cancel")
            heard = [[one["id"] for one in each] for each in told]
    assert heard == [[str(number) for number in range(2, lines + 3)]] * 20
    if lines == 1:
        assert len([one for one in seen if "events.number >" in one]) <= 3
    database.dispose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_with_open_streams_stops_when_told_to(sqlite_url: str, tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ("uvicorn", "--factory", "app.main:create_app", "--port", str(port))
    settings = {"LRTUNE_DATABASE_URL": sqlite_url, "LRTUNE_API_KEY": KEY, "LRTUNE_CREDENTIALS": str(tmp_path / "key")}
    server = processes.start(*command, environment=settings, log=tmp_path / "server.log")
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as service:
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
