"""Webhooks: whoever a job names is told of its end, signed, again until they hear it, and nobody inside is reached."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

import app.webhooks
from app.settings import Settings
from app.webhooks import Refused, allowed, signature, telling
from lrtune.store import Database, budgets, events, jobs, webhooks
from lrtune.store.tables import WebhookRow
from lrtune.wire.job import JobSpec
from tests.leasing import NOON, SPEC
from tests.serving import served, slug

SECRET = "a-secret-of-the-tests"
JOB = {"task": "external", "horizon": {"steps": 20}, "metric": {"name": "loss", "goal": "minimize"}}


class Heard(HTTPServer):
    """A receiver that answers with these statuses, one after the other, and keeps what it was sent."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.answers, self.sent, self.came = list(answers), list[tuple[Any, bytes]](), threading.Semaphore(0)
        self.meanwhile = list[Callable[[], None]]()  # what it does before it answers

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_address[1]}/hook?a=1"


class Receiver(BaseHTTPRequestHandler):
    server: Heard

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.sent.append((self.headers, content))
        if self.server.meanwhile:
            self.server.meanwhile.pop()()
        self.send_response(self.server.answers.pop(0))
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.server.came.release()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def receiver(*answers: int) -> Iterator[Heard]:
    with Heard(*answers) as heard:
        thread = threading.Thread(target=heard.serve_forever)
        thread.start()
        try:
            yield heard
        finally:
            heard.shutdown()
            thread.join()


def said(database: Database, job: str) -> list[str]:
    with database.read() as tx:
        return [one.kind for one in events.page(tx, job, after=0, limit=100).items if "webhook" in one.kind]


def ended(database: Database, url: str) -> str:
    with database.write() as tx:
        job = jobs.create(tx, SPEC.model_copy(update={"webhook": url}))[0].id
        jobs.cancel(tx, job)
    return job


def tell(database: Database, **given: Any) -> None:
    """All that is due now, as the server does it."""
    import asyncio

    settings = Settings(webhook_secret=SecretStr(SECRET), **({"webhook_private": True} | given))
    stopping = asyncio.Event()

    async def once() -> None:
        task = asyncio.create_task(telling(database, asyncio.Semaphore(), settings, stopping))
        while await asyncio.to_thread(app.webhooks._waiting, database):
            await asyncio.sleep(0.01)
        stopping.set()
        await task

    asyncio.run(once())


def test_a_receiver_hears_of_the_end_once_signed_and_with_the_job(database_url: str) -> None:
    with receiver(200) as heard, served(database_url, webhook_secret=SECRET, webhook_private=True) as service:
        job = service.post("/v1/jobs", json=JOB | {"webhook": heard.url}).json()["id"]
        service.post(f"/v1/jobs/{job}/cancel")
        assert heard.came.acquire(timeout=60)
    ((headers, content),) = heard.sent
    body = json.loads(content)
    assert (body["event"], body["job"]["id"], body["job"]["state"]) == ("job-cancelled", job, "cancelled")
    assert headers["X-Lrtune-Signature"] == f"v1={signature(SECRET, headers['X-Lrtune-Timestamp'], content)}"
    assert headers["Host"] == f"localhost:{heard.server_address[1]}"
    database = Database(database_url)
    with database.read() as tx:
        assert not webhooks.waiting(tx, now=datetime.now(UTC) + timedelta(days=1))
    database.dispose()


def test_who_does_not_hear_is_told_again_and_given_up_in_the_end(database: Database) -> None:
    with receiver(500, *[302] * (webhooks.TRIES - 1)) as heard:
        job = ended(database, heard.url)
        for _ in range(webhooks.TRIES):
            tell(database)
            with database.write() as tx:
                tx.execute(update(WebhookRow).where(WebhookRow.next_at.is_not(None)).values(next_at=NOON))
    assert len(heard.sent) == webhooks.TRIES, "redirects are not followed"
    assert len({headers["X-Lrtune-Delivery"] for headers, _ in heard.sent}) == 1
    assert said(database, job) == ["webhook-failed"]


def test_the_pauses_grow_to_an_hour(database: Database) -> None:
    ended(database, "https://example.org/")
    pauses, now = list[float](), datetime.now(UTC) + timedelta(days=1)
    for _ in range(webhooks.TRIES - 1):
        with database.write() as tx:
            due = webhooks.claim(tx, now=now)
            assert due is not None
            webhooks.missed(tx, due, "it answered 500", now=now)
            before, now = now, tx.scalars(select(WebhookRow.next_at)).one() or now
        pauses.append((now - before).total_seconds())
    assert pauses == [10, 80, 640, 3600, 3600, 3600, 3600]


def test_a_job_that_goes_on_is_told_of_again(database: Database) -> None:
    with receiver(204, 204) as heard:
        with database.write() as tx:
            job = jobs.create(tx, SPEC.model_copy(update={"webhook": heard.url}))[0].id
            jobs.end(tx, job, "succeeded", reason="")
        tell(database)
        with database.write() as tx:
            budgets.extend(tx, job, SPEC.budget.model_copy(update={"full_runs": 99.0}))
            jobs.end(tx, job, "failed", reason="")
        tell(database)
    assert [json.loads(content)["event"] for _, content in heard.sent] == ["job-succeeded", "job-failed"]
    assert len({headers["X-Lrtune-Delivery"] for headers, _ in heard.sent}) == 2


def test_a_job_that_its_receiver_takes_up_again_before_it_answers_is_told_of_again(database: Database) -> None:
    with receiver(200, 200) as heard:
        with database.write() as tx:
            job = jobs.create(tx, SPEC.model_copy(update={"webhook": heard.url}))[0].id
            jobs.end(tx, job, "succeeded", reason="")

        def extend() -> None:
            with database.write() as tx:
                budgets.extend(tx, job, SPEC.budget.model_copy(update={"full_runs": 99.0}))

        heard.meanwhile.append(extend)
        tell(database)
        with database.write() as tx:
            jobs.end(tx, job, "failed", reason="")
        tell(database)
    assert [json.loads(content)["event"] for _, content in heard.sent] == ["job-succeeded", "job-failed"]
    assert said(database, job) == ["webhook-sent"]


def test_a_job_that_is_deleted_while_it_is_told_of_says_nothing_in_the_one_that_comes_after_it(
    database: Database,
) -> None:
    with receiver(200, 200) as heard:
        first, after = ended(database, heard.url), list[str]()

        def delete() -> None:
            with database.write() as tx:
                jobs.delete(tx, first)
            after.append(ended(database, heard.url))  # which SQLite gives the number of the one that is gone

        heard.meanwhile.append(delete)
        tell(database)
        tell(database)
    assert [json.loads(content)["job"]["id"] for _, content in heard.sent] == [first, *after]
    assert said(database, *after) == ["webhook-sent"]


NO_NAMES = (
    f"http://{'a' * 64}.example/", "http://a..b/", "http://999.999.999.999/", "http://[:::]/", "http://[1.2.3.4]/",
    "http://xn--a/",
)  # fmt: skip


def test_names_that_cannot_be_are_given_up_and_stop_nobody_elses_webhook(database: Database) -> None:
    with receiver(200) as heard:
        wrong = [ended(database, url) for url in NO_NAMES]
        right = ended(database, heard.url)
        tell(database)
    assert said(database, right) == ["webhook-sent"]
    assert [said(database, job) for job in wrong] == [["webhook-failed"]] * len(wrong)


def test_a_receiver_that_never_ends_its_answer_is_given_up_and_holds_nobody_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends a little now and then, so that no read of it ever takes long."""
    monkeypatch.setattr(app.webhooks, "PATIENCE", 3.0)
    left = threading.Event()

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
            while not left.wait(0.05):
                connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listening, receiver(200) as heard:
        thread = threading.Thread(target=trickle, args=(listening,))
        thread.start()
        slow = ended(database, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        quick = ended(database, heard.url)
        tell(database)
        left.set()
        thread.join()
    assert (said(database, slow), said(database, quick)) == ([], ["webhook-sent"])
    with database.read() as tx:
        assert webhooks.waiting(tx, now=datetime.now(UTC) + timedelta(seconds=11)), "it is tried again"


def test_two_servers_tell_once(database: Database) -> None:
    ended(database, "http://127.0.0.1:9/")
    with database.write() as tx:
        assert webhooks.claim(tx) is not None
        assert webhooks.claim(tx) is None
        assert webhooks.claim(tx, now=datetime.now(UTC) + webhooks.SENDING * 2) is not None, "the first one died"


PRIVATE = (
    "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
    "2002:7f00:1::", "ff02::1", "fec0::1", "2130706433", "0x7f.1", "localhost",
)  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_no_address_inside_is_reached_however_it_is_written(host: str) -> None:
    with pytest.raises((Refused, OSError)):
        allowed(host, 80, private=False)


def test_an_address_of_the_internet_is_allowed_and_private_ones_where_a_setting_says_so() -> None:
    assert allowed("93.184.216.34", 443, private=False) == "93.184.216.34"
    assert allowed("2606:2800:220:1:248:1893:25c8:1946", 443, private=False).startswith("2606")
    assert allowed("10.1.2.3", 80, private=True) == "10.1.2.3"


def test_a_name_that_changes_its_mind_leads_nowhere_else(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is public, every later one private; only the first is connected to."""
    asked, real = list[str](), socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **named: Any) -> Any:
        if host != "rebinding.example":
            return real(host, port, *args, **named)
        asked.append(host)
        return real("93.184.216.34" if len(asked) == 1 else "127.0.0.1", port, *args, **named)

    connected = list[str]()

    async def connect(self: Any, request: httpx.Request) -> httpx.Response:
        connected.append(request.url.host)
        raise httpx.ConnectError("not in a test")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", connect)
    ended(database, "https://rebinding.example/hook")
    tell(database, webhook_private=False)
    assert (connected, asked) == (["93.184.216.34"], ["rebinding.example"])


def test_a_name_that_leads_inside_is_given_up_at_once_and_the_log_says_why(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", lambda *_: pytest.fail("it connected"))
    job = ended(database, "http://localhost:80/hook")
    tell(database, webhook_private=False)
    assert said(database, job) == ["webhook-failed"]


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "a", "http://", "http://me:pw@a/b", "http://a b/", "https://a/\n", "//a", "http://a/é", 7, ""]
)
def test_what_is_no_address_is_refused_with_a_pointer(url: object, sqlite_url: str) -> None:
    with served(sqlite_url, webhook_secret=SECRET) as service:
        answer = service.post("/v1/jobs", json=JOB | {"webhook": url})
        assert (answer.status_code, [one["pointer"] for one in answer.json()["errors"]]) == (422, ["/webhook"])


def test_a_server_that_cannot_sign_takes_no_webhook(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        for params in ({}, {"validate_only": "true"}):
            answer = service.post("/v1/jobs", json=JOB | {"webhook": "https://example.org/"}, params=params)
            assert (slug(answer), answer.json()["errors"][0]["pointer"]) == ("invalid", "/webhook")
            assert "LRTUNE_WEBHOOK_SECRET" in answer.json()["errors"][0]["detail"]


def test_a_job_says_whom_it_tells() -> None:
    assert JobSpec.model_validate(JOB | {"webhook": "https://example.org:8443/a?b=c"}).webhook
