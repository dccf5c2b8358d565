"""A report to send around, and a job watched live: from a real server, read as their readers read them."""

import json
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from lrtune.cli import commands, terminal, watch
from lrtune.client import Client
from tests.serving import KEY, served, trained

NASTY = "<script>alert(1)</script> | $x^2$ `a` *b*"


@pytest.fixture
def job(sqlite_url: str, monkeypatch: pytest.MonkeyPatch):
    """The id of a finished job with a nasty name, on a server that the command line finds."""
    with served(sqlite_url) as door:
        monkeypatch.setenv("LRTUNE_URL", str(door.base_url))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        queued = door.post("/v1/jobs", json={"task": "digits", "name": NASTY, "horizon": {"steps": 40}}).json()
        trained(sqlite_url, queued["id"], [0.5, 0.25, 0.75, 0.26])
        yield str(queued["id"])


def run(*arguments: str, code: int = 0, **more: Any) -> str:
    found = CliRunner().invoke(commands.app, list(arguments), prog_name="lrtune", **more)
    assert found.exit_code == code, found.output
    return found.output


class Page(HTMLParser):
    """The elements of a page, what they load, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_html_report_needs_nothing_beside_it_and_runs_nothing(job: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert "wrote" in run("report", job, "-o", str(file))
    page = Page(file.read_text())
    assert {"svg", "table", "pre"} <= page.tags
    assert "script" not in page.tags
    assert all(target.startswith("#") for target in page.loaded)
    assert NASTY in page.words
    for said in ("val_loss 0.25", "50 % better than untuned", "Too high?", "Too low?", "How sure?", "import torch"):
        assert said in page.words


def test_the_picture_is_one(job: str, tmp_path: Path) -> None:
    run("report", job, "--output", str(tmp_path / "report.png"))
    picture = Image.open(BytesIO((tmp_path / "report.png").read_bytes()))
    assert picture.size[0] > 1500
    assert len(set(picture.convert("RGB").resize((200, 60)).get_flattened_data())) > 50, "there is something on it"


def test_the_markdown_report_takes_no_orders_from_a_name(job: str, tmp_path: Path) -> None:
    run("report", job, "--output", str(tmp_path / "report.md"))
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# \\<script\\>alert(1)\\</script\\> \\| $x^2$ \\`a\\` \\*b\\*\n")
    assert text.count("```") == 2
    assert "| adamw | linear | 4 | 0.25 | 1 seed | 0 | 0.002 |" in text
    assert "\n| seed | the answer | untuned |\n| --- | --- | --- |\n| 0 | 0.25 | 0.5 |\n\n" in text
    assert ", succeeded on " in text.partition("##")[0]


@pytest.mark.parametrize(("name", "said"), [("report.pdf", ".html, .md, .png"), ("no/folder/report.html", "output")])
def test_a_file_that_cannot_be_written_is_told_in_words(job: str, tmp_path: Path, name: str, said: str) -> None:
    assert said in run("report", job, "-o", str(tmp_path / name), code=2)
    assert list(tmp_path.glob("report*")) == []


def test_a_job_without_an_answer_leaves_no_file(sqlite_url: str, job: str, tmp_path: Path) -> None:
    queued = json.loads(run("submit", "digits", "--json"))
    assert "No trial of this job has finished" in run(
        "report", queued["id"], "-o", str(tmp_path / "report.html"), code=2
    )
    assert list(tmp_path.glob("report*")) == []


def test_a_screen_shows_the_trials_with_their_curves(job: str) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    with Client() as client:
        assert watch.follow(client, job, console).state == "succeeded"
    shown = [line for line in screen.getvalue().splitlines() if "adamw at" in line and "complete" in line]
    assert [line.split()[:3] for line in shown[:2]] == [["★", "1", "complete"], ["3", "complete", "0.26"]]
    assert "█▇▇▆▆▅▄▄▃▂▂▁" in shown[0], "linear, falling"
    assert "0 baseline" in shown[3]


def test_a_job_that_is_watched_is_asked_for_when_it_has_changed(
    sqlite_url: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, get, rounds = list[str](), Client.get, iter(range(40))
    queued = json.loads(run("submit", "digits", "--json"))["id"]

    def counted(self: Client, job_id: str) -> Any:
        asked.append(job_id)
        return get(self, job_id)

    def check() -> None:
        if next(rounds) == 20:
            run("cancel", queued, "--json")

    monkeypatch.setattr(Client, "get", counted)
    monkeypatch.setattr(watch, "EVERY", 0.05)
    with Client() as client:
        assert watch.follow(client, queued, Console(file=StringIO()), check=check).state == "cancelled"
    assert len(asked) <= 5, "first, when the stream has begun, when it was cancelled"


def test_watch_speaks_json_to_scripts(job: str) -> None:
    *events, last = [json.loads(line) for line in run("watch", job, "--json").splitlines()]
    assert [event["kind"] for event in events][-1] == "job-succeeded"
    assert (last["id"], last["state"]) == (job, "succeeded")
    queued = json.loads(run("submit", "digits", "--json"))
    assert json.loads(run("pause", queued["id"], "--json"))["state"] == "paused"


def test_the_shell_completes_the_ids_of_jobs(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"_LRTUNE_COMPLETE": "complete_bash", "COMP_WORDS": "lrtune show job-", "COMP_CWORD": "2"}
    assert job in run("show", env=asked)
    monkeypatch.setenv("LRTUNE_API_KEY", "not the key")
    assert job not in run("show", env=asked)


def test_a_row_of_bars_is_thinned_to_its_width_and_never_leaves_its_scale() -> None:
    assert terminal.spark([0.0, 0.5, 1.0], 0.0, 1.0) == "▁▅█"
    assert terminal.spark([9.0, -9.0], 0.0, 1.0) == "█▁"
    assert terminal.spark([1.0, 1.0], 1.0, 1.0) == "▁▁"
    assert len(terminal.spark([float(i) for i in range(500)], 0.0, 499.0)) == 12


def test_the_time_to_go_is_that_of_the_pace_so_far(sqlite_url: str) -> None:
    with served(sqlite_url) as door, Client(str(door.base_url), KEY) as client:
        queued = client.submit("digits")
    assert watch.time_left(queued, datetime.now(UTC)) == "waiting for a worker"
    start = datetime(2026, 1, 1, tzinfo=UTC)
    quarter = queued.progress.model_copy(update={"fraction": 0.25})
    running = queued.model_copy(update={"started_at": start, "progress": quarter, "state": "running"})
    assert watch.time_left(running, start + timedelta(minutes=1)) == "0:01:00, about 0:03:00 to go"
