"""Several server processes on one PostgreSQL: whoever is asked, the answer is the same."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from lrtune.cli.commands import app
from tests.external import report, submit, take, tell
from tests.serving import KEY, served, signed_in
from tests.test_events_stream import STREAM, messages

Two = tuple[httpx.Client, httpx.Client]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def two(postgres_url: str, tmp_path: Path) -> Iterator[Two]:
    """Two servers that share their database, their key and its folder, as those of one host do."""
    with ExitStack() as both:
        first, second = (
            both.enter_context(served(postgres_url, credentials=tmp_path / "credentials")) for _ in range(2)
        )
        yield first, second


def test_a_loop_may_be_answered_by_another_server_each_time(two: Two) -> None:
    one, other = two
    job = submit(one, search={"sampler": "random", "pruner": "forecast"}, budget={"trials": 9})
    held = [take(door, job) for door in (one, other, one)]
    assert len({trial["trial"]["number"] for trial in held}) == 3
    for step in range(2, 41, 2):
        for place, trial in enumerate(held):
            door = two[(step // 2 + place) % 2]
            assert report(door, job, trial, step, 1.0 + place + 1 / step)["decision"] == "continue"
            assert report(two[(step // 2 + place + 1) % 2], job, trial, step, 9.0)["decision"] == "continue"  # a retry
    for place, trial in enumerate(held):
        assert tell(two[place % 2], job, trial, "finish").json()["state"] == "complete"
        again = tell(two[1 - place % 2], job, trial, "finish").json()
        assert (again["state"], len(again["reports"])) == ("complete", 20)
    seen = [door.get(f"/v1/jobs/{job}") for door in two]
    assert seen[0].json() == seen[1].json()
    assert seen[0].headers["etag"] == seen[1].headers["etag"]
    assert seen[0].json()["best"]["trial"] == held[0]["trial"]["number"]


def test_a_stream_at_one_server_tells_what_another_has_written(two: Two) -> None:
    one, other = two
    job = submit(one)
    with one.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as stream:
        lines = messages(stream)
        assert "submitted" in next(lines)["data"]
        held = take(other, job)
        kinds = [next(lines)["event"] for _ in range(2)]
        assert kinds == ["trial-proposed", "trial-started"]
        report(other, job, held, 2, None)
        assert next(lines)["event"] == "trial-diverged"


def test_who_signs_out_at_one_server_is_signed_out_at_all(two: Two) -> None:
    one, other = two
    with signed_in(one) as browser:
        session = dict(browser.cookies)
        there = f"{other.base_url}/"
        assert httpx.get(there, cookies=session, headers={"Accept": "text/html"}, trust_env=False).status_code == 200
        page = browser.get("/").text
        token = page.split('name="token" value="')[1].split('"')[0]
        assert browser.post("/sign-out", data={"token": token}).status_code == 303
        gone = httpx.get(there, cookies=session, headers={"Accept": "text/html"}, trust_env=False)
        assert gone.status_code in (303, 401)


def test_several_processes_need_a_database_that_takes_several_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRTUNE_DATABASE_URL", "sqlite:///lrtune.db")
    refused = CliRunner().invoke(app, ["serve", "--processes", "2"])
    assert refused.exit_code != 0
    assert "--processes: found 2; accepted is 1 with SQLite" in str(refused.exception) + refused.output


def test_several_processes_with_a_wrong_setting_end_before_the_first_of_them_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[object] = []
    monkeypatch.setattr("uvicorn.run", lambda *_, **options: started.append(options))
    monkeypatch.setenv("LRTUNE_DATABASE_URL", "postgresql+psycopg://127.0.0.1/none")
    monkeypatch.setenv("LRTUNE_MAX_BODY_BYTES", "many")
    refused = CliRunner().invoke(app, ["serve", "--processes", "2"])
    assert (refused.exit_code, started) == (2, [])
    assert "LRTUNE_MAX_BODY_BYTES" in refused.output


@pytest.mark.slow
def test_what_is_counted_is_of_all_processes(postgres_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    settings = {"LRTUNE_DATABASE_URL": postgres_url, "LRTUNE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        "from lrtune.cli.commands import app; app()",
        "serve",
        "--processes",
        "2",
        "--port",
        f"{port}",
    ]
    server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | settings | {"PYTHONPATH": str(ROOT)})
    address, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {KEY}"}
    try:
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False, transport=transport) as door:
            assert door.get("/v1/me").status_code == 200
        for _ in range(40):  # each on a connection of its own, so that either process may take it
            assert httpx.get(f"{address}/v1/tasks", headers=headers, timeout=60, trust_env=False).status_code == 200
        text = httpx.get(f"{address}/metrics", headers=headers, timeout=60, trust_env=False).text
        assert 'lrtune_requests_total{method="GET",route="/v1/tasks",status="200"} 40.0' in text
        assert "lrtune_workers 0.0" in text
    finally:
        server.terminate()
        assert server.wait(60) in (0, -signal.SIGTERM)
