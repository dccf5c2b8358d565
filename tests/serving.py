"""A real server in this process, for the tests of the door, a worker's end of work, and a job as a worker leaves it."""

import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import uvicorn

from app.main import create_app
from app.settings import Settings
from lrtune import errors
from lrtune.store import Database, jobs, leases, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import JobState, Proposal, Report, TrialState

KEY = "the-key-of-the-tests"


@contextmanager
def served(database_url: str, *, port: int = 0, keep_alive: int = 600, **settings: object) -> Iterator[httpx.Client]:
    """A client that has the key of a server on this database."""
    folder = tempfile.TemporaryDirectory()  # nothing that a test does is left in the working folder
    usual = {"api_key": KEY, "credentials": Path(folder.name) / "credentials"}
    app = create_app(Settings(database_url=database_url, **(usual | settings)))
    # A test may work for long between two requests, and then meets a connection that is being closed just then.
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_keep_alive=keep_alive))
    with socket.create_server(("127.0.0.1", port)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        address = "http://127.0.0.1:{1}".format(*listening.getsockname())
        limits = httpx.Limits(max_connections=100)
        headers = {"Authorization": f"Bearer {KEY}"}
        try:
            with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False, limits=limits) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
            folder.cleanup()


@contextmanager
def signed_in(service: httpx.Client, key: str = KEY) -> Iterator[httpx.Client]:
    """A browser without scripts that has signed in: it has a cookie, and no key."""
    page = {"Accept": "text/html"}
    with httpx.Client(base_url=service.base_url, headers=page, timeout=60, trust_env=False) as browser:
        assert browser.post("/sign-in", data={"key": key}).status_code == 303
        yield browser


def finished(service: httpx.Client, database_url: str, *, steps: int = 40) -> str:
    """The id of a job that is over, with two trials of `steps`."""
    job = str(service.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": steps}}).json()["id"])
    trained(database_url, job, [0.5, 0.25], steps=steps)
    return job


def reached(service: httpx.Client, server: BaseProcess) -> None:
    """Wait until a server of its own process answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.is_alive():
        try:
            service.get("/healthz")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server did not start")


class Done(threading.Event):
    """Asks a worker to stop as soon as it has nothing to do."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def trained(database_url: str, job_id: str, values: Sequence[float], *, steps: int = 40) -> None:
    """Let a job of `steps` have trials with these values, as a worker would have left them; the job is over then."""
    database = Database(database_url)
    for number, value in enumerate(values):
        chosen = Configuration(optimizer="adamw", learning_rate=0.001 * (1 + number), schedule="linear")
        proposal = Proposal(configuration=chosen, role="search" if number else "baseline", seed=0, horizon=steps)
        report = Report(step=steps, learning_rate=0.0, metrics={"val_loss": value})
        with database.write() as tx:
            assert trials.propose(tx, job_id, proposal, known=number)
            lease = leases.claim(tx, "worker", ttl=timedelta(minutes=1))
            assert lease is not None
            leases.report(tx, lease, [report], ttl=timedelta(minutes=1))
            leases.finish(tx, lease, TrialState.COMPLETE, value=value, step=steps)
    with database.write() as tx:
        jobs.end(tx, job_id, JobState.SUCCEEDED, reason="")
    database.dispose()


def slug(answer: httpx.Response) -> str:
    """The slug of a problem, after a look at its shape."""
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == answer.status_code
    assert {"type", "title", "status", "detail"} <= set(problem) <= {"type", "title", "status", "detail", "errors"}
    assert problem["detail"]
    assert all(set(one) == {"pointer", "detail"} for one in problem.get("errors", []))
    assert "Traceback" not in answer.text
    found = str(problem["type"]).removeprefix("/problems/")
    assert errors.by_slug(found) is not errors.LrtuneError, "the client knows it"
    return found
