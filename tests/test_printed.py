"""Nothing that others wrote steers the terminal of who reads it: every command, against a server of hostile words."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.main import create_app
from app.settings import Settings
from lrtune.cli import commands
from lrtune.printable import printable
from lrtune.store import Database, workers
from lrtune.wire.results import JobState
from tests.test_cli import KEY, ended

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f\u202e\u2028[bold][link=http://x]"
WORDS = re.compile(rb'"(reason|host|device|summary|why|detail|answer|message|sentence|formula|metric)": ?"')


class Hostile:
    """The service, with escape sequences in front of every free text that it answers."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        unpacked = [one for one in scope.get("headers", ()) if one[0] != b"accept-encoding"]

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [one for one in message["headers"] if one[0] != b"content-length"]
            elif message["type"] == "http.response.body":
                escaped = json.dumps(ESCAPES)[1:-1].encode()
                message["body"] = WORDS.sub(lambda found: found[0] + escaped, message["body"])
            await send(message)

        await self._app({**scope, "headers": unpacked}, receive, answer)


@pytest.fixture(scope="module")
def known(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with hostile words, which the command line finds in its environment; what the arguments stand for."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "lrtune.db").write_bytes(sqlite_template.read_bytes())
    (folder / "films.csv").write_text("x,y\n1,0\n2,1\n" * 20)
    url = f"sqlite:///{folder / 'lrtune.db'}"
    settings = Settings(database_url=url, api_key=KEY, credentials=folder / "credentials", data_dir=folder / "data")
    server = uvicorn.Server(uvicorn.Config(Hostile(create_app(settings)), log_config=None, ws="none"))
    database = Database(url)
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        patch.setenv("LRTUNE_URL", "http://127.0.0.1:{1}".format(*listening.getsockname()))
        patch.setenv("LRTUNE_API_KEY", KEY)
        done, waiting = ended(database, JobState.SUCCEEDED, reason=ESCAPES), ended(database, JobState.CANCELLED)
        invoked("submit", "digits", "--name", ESCAPES, "--tag", f"team={ESCAPES}")
        with database.write() as tx:
            workers.sign_in(tx, "w", host=ESCAPES, pid=1, device=ESCAPES, tasks=["digits"])
        invoked("datasets", "add", str(folder / "films.csv"))
        yield {
            "STORAGE": f"sqlite:///{folder}/no.db",
            "JOB": done,
            "WAITING": waiting,
            "FILE": str(folder / "films.csv"),
        }
        server.should_exit = True
        thread.join()
    database.dispose()


def invoked(*arguments: str) -> str:
    """What a command printed, on both streams, as it was sent."""
    return str(CliRunner().invoke(commands.app, list(arguments), color=True).output)


COMMANDS = (
    *(("submit", "digits"), ("submit", "digits", "--dry-run"), ("submit", "digits", "--json"), ("submit", "nothing")),
    *(("watch", "JOB"), ("watch", "JOB", "--json"), ("list",), ("list", "--json"), ("show", "JOB")),
    *(("best", "JOB"), ("best", "JOB", "--json"), ("report", "JOB"), ("export", "JOB")),
    *(("export", "no"), ("cancel", "JOB"), ("cancel", "WAITING"), ("pause", "WAITING"), ("resume", "WAITING")),
    *(("extend", "JOB", "--full-runs", "900"), ("delete", "no"), ("tasks",), ("workers",), ("workers", "--json")),
    *(("datasets", "add", "FILE"), ("datasets", "list"), ("datasets", "show", "films.csv"), ("datasets", "show", "no")),
    *(("datasets", "remove", "no"), ("schedules",), ("preview", "nothing"), ("export-study", "no", "--mlflow", "x")),
    *(("run", "no", "--", "true"), ("import-study", "--storage", "STORAGE"), ("audit",), ("audit", "--json")),
    *(("keys", "create", "ada"), ("keys", "create", "a b"), ("keys", "list"), ("keys", "revoke", "no")),
    *(("people", "list"), ("people", "set", "ada", "--queued-jobs", "no"), ("people", "set", "ada", "--weight", "2")),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_prints_what_would_steer_a_terminal(known: dict[str, str], arguments: tuple[str, ...]) -> None:
    said = invoked(*(known.get(one, one) for one in arguments))
    assert said
    steering = {letter for letter in said if letter != "\n" and printable(letter) != letter}
    assert not steering
    shows_words = arguments[0] in ("list", "show", "best", "report", "audit") or arguments == ("workers",)
    if shows_words and "--json" not in arguments:
        assert "�" in said, "the hostile words were there"


def test_brackets_of_others_are_read_as_they_stand(known: dict[str, str]) -> None:
    assert known
    assert "[bold][link=http://x]" in "".join(invoked("list").split())


@given(st.text())
def test_printable_text_holds_no_control_characters_and_keeps_everything_else(text: str) -> None:
    made = printable(text)
    assert len(made) == len(text)
    assert printable(made) == made
    assert not re.search("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", made)
    assert all(one in (new, "\r") or new == "�" for one, new in zip(text, made, strict=True))


@pytest.mark.parametrize("text", ["naïve café", "日本語", "👩‍🔬 and ✔", "a\tb\r\nc", "x y"])
def test_what_people_write_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text
