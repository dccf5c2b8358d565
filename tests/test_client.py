import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune import client as client_module
from lrtune import errors
from lrtune.client import Client
from lrtune.wire.job import Budget, JobSpec
from lrtune.wire.results import JobState

AT = "2026-11-21T08:00:00Z"
CONFIGURATION = {"optimizer": {"name": "adamw"}, "learning_rate": 0.01, "schedule": {"family": "linear"}}
BEST = {
    "configuration": CONFIGURATION,
    "metric": "val_loss",
    "goal": "minimize",
    "value": 0.25,
    "seeds": [{"seed": 1, "value": 0.25}],
    "interval": [0.2, 0.3],
    "baseline": None,
    "full_runs": 3.5,
    "trial": 2,
    "steps": 4,
    "confirmed": True,
}
Handler = Callable[[httpx.Request], httpx.Response]


def job(state: str = "running", id: str = "j1") -> dict[str, Any]:
    return {
        "id": id,
        "state": state,
        "spec": {
            "task": {"name": "digits"},
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": 40},
        },
        "steps": 960,
        "progress": {"phase": "search", "trials": {}, "full_runs": 1, "planned_full_runs": 20, "fraction": 0.05},
        "best": None,
        "created_at": AT,
        "started_at": None,
        "finished_at": None,
    }


def event(number: int) -> dict[str, Any]:
    return {"id": number, "at": AT, "kind": "note", "message": f"event {number}"}


def stream(*numbers: int, tail: str = "") -> str:
    return "".join(f"id: {n}\nevent: note\ndata: {json.dumps(event(n))}\n\n" for n in numbers) + tail


def client(handler: Handler) -> Client:
    return Client("http://lrtune.test", "secret", transport=httpx.MockTransport(handler))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """Time does not pass here, no environment leaks in, and the current folder is empty."""
    slept: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    for name in ("LRTUNE_URL", "LRTUNE_API_KEY", "LRTUNE_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return slept


def _kinds(kind: type[errors.LrtuneError]) -> list[type[errors.LrtuneError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]


@pytest.mark.parametrize("kind", _kinds(errors.LrtuneError)[1:])
@pytest.mark.parametrize("prefix", ["", "urn:lrtune:", "https://lrtune.test/problems/"])
def test_every_problem_comes_back_as_the_error_that_the_service_raised(
    kind: type[errors.LrtuneError], prefix: str
) -> None:
    problem = {"type": prefix + kind.slug(), "detail": "in words", "errors": [{"pointer": "/task", "detail": "no"}]}
    with client(lambda _: httpx.Response(409, json=problem)) as c, pytest.raises(errors.LrtuneError) as caught:
        c.get("j1")
    assert type(caught.value) is kind
    assert (caught.value.detail, caught.value.errors) == ("in words", [{"pointer": "/task", "detail": "no"}])


@pytest.mark.parametrize("answer", ["<html>", "[]", '{"type": 3}', "null"])
def test_what_another_server_answers_is_told_in_words(answer: str) -> None:
    with client(lambda _: httpx.Response(502, text=answer)) as c, pytest.raises(errors.LrtuneError) as caught:
        c.get("j1")
    assert "http://lrtune.test/v1/jobs/j1 answered 502 Bad Gateway; is it an lrtune server?" in str(caught.value)


def test_a_submission_whose_answer_was_lost_is_sent_again_under_the_same_key(pauses: list[float]) -> None:
    keys = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) < 3:
            raise httpx.ReadError("connection reset")
        return httpx.Response(201, json=job("queued"))

    with client(answer) as c:
        assert c.submit("digits").state is JobState.QUEUED
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert pauses == [0.2, 0.8]


def test_a_job_goes_over_the_wire_as_it_was_written() -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(201, json=job())

    wanted = {"task": {"name": "digits"}, "schedules": [{"family": "wsd", "decay": [0.1, 0.8]}]}
    with client(answer) as c:
        c.submit("digits")
        c.submit(wanted)
        c.submit(JobSpec.model_validate(wanted))
        c.extend("j1", Budget(full_runs=40))
    assert bodies == [{"task": "digits"}, wanted, wanted, {"budget": {"full_runs": 40.0}}]


def test_nobody_at_home_is_told_in_words(pauses: list[float]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with (
        client(refuse) as c,
        pytest.raises(errors.Unavailable, match=r"no lrtune server answers at http://lrtune\.test"),
    ):
        c.get("j1")
    assert len(pauses) == 2


def test_pages_are_followed_to_the_end() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url.query, "ascii"))
        last = "cursor" in request.url.params
        return httpx.Response(200, json={"items": [job(id="b" if last else "a")], "next": None if last else "c2"})

    with client(answer) as c:
        assert [found.id for found in c.list(state=JobState.RUNNING, tag="team:risk")] == ["a", "b"]
    assert asked == ["state=running&tag=team%3Arisk", "state=running&tag=team%3Arisk&cursor=c2"]


class Dropped(httpx.SyncByteStream):
    """A stream that breaks after its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self.text.encode()
        raise httpx.ReadError("connection reset")


def test_watching_goes_on_after_a_dropped_stream_without_losing_or_repeating_an_event() -> None:
    seen_ids = []
    half = f"id: 4\ndata: {json.dumps(event(4))[:20]}"
    streams = iter(
        [
            httpx.Response(200, stream=Dropped(stream(1, 2, 3, tail=half))),
            httpx.Response(503, json={"type": "urn:lrtune:unavailable", "detail": "database away"}),
            httpx.Response(200, text=": keep-alive\n\n" + stream(3, 4, 5)),  # the server repeats one
        ]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers.get("Accept") == "text/event-stream":
            seen_ids.append(request.headers["Last-Event-ID"])
            return next(streams)
        if request.url.path.endswith("/events"):  # what came between the end of the stream and the look at the job
            assert request.url.params["after"] == "5"
            return httpx.Response(200, json={"items": [event(6)], "next": None})
        return httpx.Response(200, json=job("succeeded"))

    with client(answer) as c:
        assert [one.id for one in c.watch("j1")] == [1, 2, 3, 4, 5, 6]
    assert seen_ids == ["0", "3", "3"]


def test_watching_gives_up_when_the_server_stays_away(pauses: list[float]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with client(refuse) as c, pytest.raises(errors.Unavailable):
        list(c.watch("j1"))
    assert sum(pauses) == 45.5


def test_watching_an_unknown_job_says_so_at_once(pauses: list[float]) -> None:
    problem = {"type": "urn:lrtune:unknown-job", "detail": "no job j1"}
    with client(lambda _: httpx.Response(404, json=problem)) as c, pytest.raises(errors.UnknownJob):
        list(c.watch("j1"))
    assert pauses == []


def test_the_best_schedule_drives_the_users_own_loop() -> None:
    with client(lambda _: httpx.Response(200, json=BEST)) as c:
        best = c.best("j1")
    factor = best.schedule.over(4)
    assert [best.configuration.learning_rate * factor(step) for step in range(4)] == [0.01, 0.0075, 0.005, 0.0025]


def test_a_newer_server_may_say_more_than_this_client_knows() -> None:
    with client(lambda _: httpx.Response(200, json=job() | {"mood": "fine"})) as c:
        assert c.get("j1").id == "j1"


def test_an_answer_of_another_kind_is_told_in_words() -> None:
    with client(lambda _: httpx.Response(200, text="hello")) as c, pytest.raises(errors.LrtuneError, match="version"):
        c.get("j1")


@pytest.mark.parametrize("source", ["argument", "LRTUNE_API_KEY", "LRTUNE_CREDENTIALS", "folder"])
def test_the_key_is_found_where_the_server_put_it(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / ("elsewhere" if source == "LRTUNE_CREDENTIALS" else ".lrtune/credentials")
    path.parent.mkdir(exist_ok=True)
    path.write_text("found\n" if source in ("LRTUNE_CREDENTIALS", "folder") else "wrong\n")
    if source == "LRTUNE_API_KEY":
        monkeypatch.setenv("LRTUNE_API_KEY", "found")
    if source == "LRTUNE_CREDENTIALS":
        monkeypatch.setenv("LRTUNE_CREDENTIALS", str(path))
    headers = []

    def answer(request: httpx.Request) -> httpx.Response:
        headers.append(request.headers["Authorization"])
        return httpx.Response(200, json=job())

    key = "found" if source == "argument" else None
    with Client("http://lrtune.test", key, transport=httpx.MockTransport(answer)) as c:
        c.get("j1")
    assert headers == ["Bearer found"]


def test_without_a_key_the_client_says_where_it_looked() -> None:
    with pytest.raises(errors.Unauthorized, match=r"found no /.*/\.lrtune/credentials; set .*LRTUNE_CREDENTIALS"):
        Client("http://lrtune.test")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://", "http://host:port", "ftp://host", "http://host?a=1", "http://me:pw@host"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.Invalid, match=r"found .*accepted is one such as http://127\.0\.0\.1:8000"):
        Client(url, "key")


@pytest.mark.parametrize("key", ["two words", "schlüssel", "line\n"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(errors.Unauthorized, match="visible ASCII"):
        Client("http://lrtune.test", key)


@pytest.mark.parametrize("noise", [float("nan"), object(), "\udcff"])
def test_a_job_that_is_no_json_is_refused_in_words(noise: object) -> None:
    with client(lambda _: httpx.Response(201, json=job())) as c, pytest.raises(errors.Invalid, match="JSON"):
        c.submit({"task": {"name": "digits", "params": {"noise": noise}}})


def test_importing_lrtune_pulls_in_nothing_but_pydantic() -> None:
    code = "import lrtune, lrtune.wire.job, lrtune.wire.results, lrtune.export, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert not roots & {"httpx", "typer", "rich", "numpy", "optuna", "sqlalchemy", "torch", "fastapi", "app", "worker"}
