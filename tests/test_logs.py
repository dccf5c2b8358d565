"""LRTUNE_LOG=json: every line is an object, and says which request, job and trial it is about."""

import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from lrtune import logs
from tests import processes
from tests.serving import KEY, Done, reached, served
from worker.loop import Worker
from worker.settings import Settings


def lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def serving(sqlite_url: str, log: Path, kind: str) -> Iterator[httpx.Client]:
    """A server in a process of its own, whose log is a file."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {"LRTUNE_DATABASE_URL": sqlite_url, "LRTUNE_API_KEY": KEY, "LRTUNE_LOG": kind}
    command = ("uvicorn", "--factory", "app.main:create_app", "--port", str(port))
    server = processes.start(*command, environment=environment, log=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}) as client:
            reached(client, server)
            yield client
    finally:
        server.terminate()
        server.join()


def test_a_servers_lines_are_json_with_the_request_the_trial_and_whose_key_it_was(
    sqlite_url: str, tmp_path: Path
) -> None:
    with serving(sqlite_url, tmp_path / "log", "json") as client:
        asked = client.get("/v1/jobs/job-0123456789abcdef/trials/7", headers={"X-Request-Id": "mine-1"})
        assert asked.headers["X-Request-Id"] == "mine-1"
    assert "/healthz" not in (tmp_path / "log").read_text(), "open pages ask for it all the time"
    (line,) = [one for one in lines(tmp_path / "log") if one.get("request") == "mine-1"]
    assert {
        "job": "job-0123456789abcdef",
        "trial": 7,
        "method": "GET",
        "status": 404,
        "person": "admin",
    }.items() <= line.items()
    unread = [one for one in (tmp_path / "log").read_text().splitlines() if not one.startswith("{")]
    assert [one for one in unread if "Started" not in one and "Waiting" not in one and "runpy" not in one] == []


def test_the_line_of_a_request_says_whose_key_it_came_with_and_never_the_key(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path / "log", "text") as client:
        key = client.post("/v1/keys", json={"person": "ada"}).json()["key"]
        assert client.get("/v1/me", headers={"Authorization": f"Bearer {key}"}).json()["person"] == "ada"
        assert client.get("/v1/tasks", headers={"Authorization": "Bearer nobodys"}).status_code == 401
    log = (tmp_path / "log").read_text()
    assert re.search(r'127\.0\.0\.1:\d+ - admin - "POST /v1/keys HTTP/1\.1" 201', log)
    assert re.search(r'127\.0\.0\.1:\d+ - ada - "GET /v1/me HTTP/1\.1" 200', log)
    assert re.search(r'127\.0\.0\.1:\d+ - "GET /v1/tasks HTTP/1\.1" 401', log), "of nobody's key nobody is named"
    assert not [word for word in (KEY, key, "nobodys") if word in log]


def test_a_workers_log_has_a_line_when_a_stage_begins_and_one_when_it_ends(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="lrtune.worker")
    asked = {"horizon": {"steps": 40}, "budget": {"full_runs": 2}, "confirm": {"top": 0, "seeds": 0}}
    with served(sqlite_url) as service:
        job = service.post("/v1/jobs", json={"task": "digits", **asked}).json()["id"]
        Worker(Settings(database_url=sqlite_url, device="cpu", state_dir=str(tmp_path / "states")), Done()).work()
        listed = service.get(f"/v1/jobs/{job}/trials").json()["items"]
        trials = [service.get(f"/v1/jobs/{job}/trials/{one['number']}").json() for one in listed]
    first = next(one for one in trials if one["state"] == "complete")
    told = [line.partition(f"trial {first['number']} of {job} ")[2] for line in caplog.messages]
    assert [line for line in told if line][-2:] == [
        f"trains from step {first['start']} to 40 of 40",
        f"is complete at step 40, val_loss {first['value']:.6g}",
    ]
    about = [line for line in caplog.messages if f" of {job} " in line]
    assert len(about) == 2 * sum(len(one["stages"]) for one in trials), "two lines a stage, and no more"


def test_an_id_that_is_no_id_is_not_taken(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        for odd in ("a b", "x" * 65, "caf\u00e9", "{}"):
            got = service.get("/healthz", headers={"X-Request-Id": odd.encode("latin-1")}).headers["X-Request-Id"]
            assert len(got) == 32
            assert got != odd


def test_a_line_is_about_what_its_thread_was_begun_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(logs.Json())
    log = logging.getLogger("lrtune.test")
    with logs.about(job="job-1"), logs.about(trial=3, worker=None):
        thread = threading.Thread(target=copy_context().run, args=(log.warning, "caf\u00e9 \x1b[2J\u202e"))
        thread.start()
        thread.join()
    log.warning("after")
    first, after = (json.loads(line) for line in caplog.text.splitlines())
    assert {
        "job": "job-1",
        "trial": 3,
        "level": "WARNING",
        "message": "caf\u00e9 \x1b[2J\u202e",
    }.items() <= first.items()
    assert not {"job", "trial", "worker"} & set(after)
    assert caplog.text.isascii()
    assert "\x1b" not in caplog.text


def test_a_traceback_stays_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(logs.Json())
    try:
        raise ZeroDivisionError("here")
    except ZeroDivisionError:
        logging.getLogger("lrtune.test").exception("it broke")
    (line,) = caplog.text.splitlines()
    assert "ZeroDivisionError: here" in json.loads(line)["exception"]


def test_why_the_database_does_not_answer_stands_in_the_log_and_in_no_answer(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(tx: Session) -> None:
        raise OperationalError("commit", None, Exception("FATAL: too many connections\nfor the role lrtune"))

    with served(sqlite_url) as client:
        event.listen(Session, "before_commit", fail)
        try:
            answer = client.post("/v1/jobs", json={"task": "digits"})
        finally:
            event.remove(Session, "before_commit", fail)
    assert answer.status_code == 503
    assert "too many" not in answer.text
    assert "the database does not answer: FATAL: too many connections" in caplog.messages


def test_a_server_that_starts_while_its_database_is_away_says_why_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served("postgresql+psycopg://ada:pass-word@127.0.0.1:9/x") as client:
        assert client.get("/healthz").status_code == 200
    assert "the database does not answer: connection failed" in caplog.text
    assert "pass-word" not in caplog.text
