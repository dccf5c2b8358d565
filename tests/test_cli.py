"""The command line against a real server in this process; only the training is made up."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from app.main import create_app
from app.settings import Settings
from lrtune import client
from lrtune.admin import Admin
from lrtune.cli import commands, out, terminal, watch
from lrtune.client import Client
from lrtune.store import Database, jobs, leases, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import JobState, Proposal, Report, TrialState

KEY = "a-key-for-the-cli"


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A server on a database, which is given; the command line finds it in its environment."""
    settings = Settings(database_url=sqlite_url, api_key=KEY, credentials=tmp_path / "credentials")
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        monkeypatch.setenv("LRTUNE_URL", "http://127.0.0.1:{1}".format(*listening.getsockname()))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        database = Database(sqlite_url)
        yield database
        database.dispose()
        server.should_exit = True
        thread.join()


def run(*arguments: str, stdin: str | None = None, code: int = 0) -> Any:
    found = CliRunner().invoke(commands.app, list(arguments), input=stdin)
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    return found


def submitted(*arguments: str) -> dict[str, Any]:
    return json.loads(run("submit", "digits", "--steps", "40", *arguments, "--json").stdout)


def trained(database: Database, job_id: str) -> None:
    """Two trials as a worker would have left them: the untuned baseline at 0.5, and a better one at 0.25."""
    tried = [("baseline", "cosine", 0.5), ("search", "wsd", 0.25)]
    for number, (role, family, value) in enumerate(tried):
        chosen = Configuration(optimizer="adamw", learning_rate=0.001 * (1 + number), schedule=family, warmup=0.05)
        proposal = Proposal(configuration=chosen, role=role, seed=0, horizon=40, reason="made up")
        report = Report(step=40, learning_rate=0.0, metrics={"val_loss": value})
        with database.write() as tx:
            trials.propose(tx, job_id, proposal, known=number)
            lease = leases.claim(tx, "worker", ttl=timedelta(minutes=1))
            assert lease is not None
            leases.report(tx, lease, [report], ttl=timedelta(minutes=1))
            leases.finish(tx, lease, TrialState.COMPLETE, value=value, step=40)


def ended(database: Database, state: JobState, reason: str = "") -> str:
    job_id = str(submitted()["id"])
    if state is JobState.SUCCEEDED:
        trained(database, job_id)
    with database.write() as tx:
        jobs.end(tx, job_id, state, reason=reason)
    return job_id


def words(result: Any) -> str:
    return " ".join(result.output.split())


def test_options_become_the_job(service: Database) -> None:
    more = ("--param", "batch_size=64", "--full-runs", "7", "--schedule", "wsd", "--schedule", "linear")
    spec = submitted(*more, "--optimizer", "sgd", "--name", "mine", "--tag", "team=risk")["spec"]
    assert (spec["name"], spec["tags"], spec["horizon"]["steps"]) == ("mine", {"team": "risk"}, 40)
    assert (spec["task"]["params"]["batch_size"], spec["budget"]["full_runs"]) == (64, 7.0)
    assert [one["family"] for one in spec["schedules"]] == ["wsd", "linear"]
    assert [one["name"] for one in spec["optimizers"]] == ["sgd"]


def test_a_job_comes_from_a_file_or_from_stdin_and_options_go_over_it(service: Database, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"task": "digits", "budget": {"trials": 5}, "tags": {"a": "1"}}')
    over = ("--full-runs", "3", "--tag", "b=2", "--param", "noise=0.5", "--json")
    for found in (run("submit", str(file), *over), run("submit", "-", *over, stdin=file.read_text())):
        spec = json.loads(found.stdout)["spec"]
        assert spec["budget"] == {"full_runs": 3.0, "trials": 5, "seconds": None}
        assert spec["tags"] == {"a": "1", "b": "2"}
        assert spec["task"]["params"]["noise"] == 0.5


def test_how_the_answer_is_confirmed_is_an_option_of_its_own(service: Database) -> None:
    assert submitted("--confirm-top", "5", "--confirm-seeds", "2")["spec"]["confirm"] == {"top": 5, "seeds": 2}
    of_a_file = run("submit", "-", "--confirm-seeds", "7", "--json", stdin='{"task": "digits", "confirm": {"top": 1}}')
    assert json.loads(of_a_file.stdout)["spec"]["confirm"] == {"top": 1, "seeds": 7}
    assert "/confirm/seeds" in words(run("submit", "digits", "--confirm-seeds", "101", code=2))
    stale = run("submit", "-", "--confirm-seeds", "1", stdin='{"task": "digits", "confirm": 3}', code=2)
    assert "/confirm: found 3; accepted is an object" in words(stale), "an option changes nothing but what it names"
    none = run(
        "submit", "-", "--baseline", "learning_rate=3e-4", "--json", stdin='{"task": "digits", "baseline": null}'
    )
    assert json.loads(none.stdout)["spec"]["baseline"]["learning_rate"] == 3e-4


def test_whose_turn_a_job_is_and_what_it_needs_of_a_worker_are_options(service: Database) -> None:
    spec = submitted("--priority", "7", "--device", "cuda", "--memory-gb", "40")["spec"]
    assert (spec["priority"], spec["resources"]) == (7, {"device": "cuda", "memory_gb": 40.0})
    of_a_file = '{"task": "digits", "priority": 9, "resources": {"device": "cuda", "memory_gb": 80}}'
    queued = run("submit", "-", "--priority", "-3", "--memory-gb", "16", "--json", stdin=of_a_file)
    spec = json.loads(queued.stdout)["spec"]
    assert (spec["priority"], spec["resources"]) == (-3, {"device": "cuda", "memory_gb": 16.0})
    assert "/priority" in words(run("submit", "digits", "--priority", "101", code=2))


def test_a_job_of_ones_own_is_found_by_its_name_where_one_alone_has_it(service: Database) -> None:
    with Client() as admin, Client(key=Admin(admin).create_key("ada").key) as ada:
        ada.submit({"task": "digits", "name": "wide net, 2"})
    assert "another's is named by its id: job-" in words(run("show", "wide net, 2", code=2))
    mine, other = (str(submitted("--name", name)["id"]) for name in ("wide net, 2", "wide net, 22"))
    assert json.loads(run("show", "wide net, 2", "--json").stdout)["id"] == mine
    assert f"{mine} is paused" in run("pause", "wide net, 2").output
    assert f"{mine} is queued" in run("resume", "wide net, 2").output
    said = json.loads(run("compare", "wide net, 2", "wide net, 22", "--json").stdout)
    assert [one["id"] for one in said] == [mine, other]
    twin = str(submitted("--name", "wide net, 2")["id"])
    said = words(run("cancel", "wide net, 2", code=2))
    assert f"2 jobs of yours have the name 'wide net, 2'; accepted is an id: {twin} (queued), {mine} (queued)" in said
    assert "no job of yours with the id or the name 'wide'; `lrtune list`" in words(run("show", "wide", code=2))


def test_a_dry_run_tells_the_cost_and_stores_nothing(service: Database) -> None:
    said = words(run("submit", "digits", "--steps", "40", "--full-runs", "10", "--dry-run"))
    assert "at most 22 full runs (880 steps), 12 of them to confirm" in said
    assert json.loads(run("list", "--json").stdout) == []


def test_a_budget_that_the_baseline_takes_up_is_said_as_the_job_is_queued(service: Database) -> None:
    found = run("submit", "digits", "--full-runs", "1.5", "--json")
    assert json.loads(found.stdout)["state"] == "queued"
    assert "the baseline is all that is trained" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["submit", "nonsense"], None, "/task/name"),
        (["submit", "digits", "--schedule", "wobble"], None, "accepted is one of"),
        (["submit", "digits", "--steps", "1"], None, "/horizon/steps"),
        (["submit", "digits", "--steps", "9", "--epochs", "2"], None, "/horizon"),
        (["submit", "digits", "--tag", "team"], None, "accepted is KEY=VALUE"),
        (["submit", "nowhere.json"], None, "nowhere.json"),
        (["submit", "-"], "{", "Expecting"),
        (["submit", "digits", "--param", "noise=NaN"], None, "JSON"),
        (["submit", "dig\udcff"], None, "JSON"),
        (["show", "j\udcff/../x"], None, "job"),
        (["submit", "-"], "[" * 200_000, "recursion"),
        (["submit", "-"], "[1]", "accepted is a JSON object"),
        (["submit", "-", "--full-runs", "3", "--param", "a=1"], '{"task": 3, "budget": 3}', "/task"),
        (["show", "job-none"], None, "job"),
        (["best", "../../v1"], None, ""),
        (["export", "job-none", "--format", "keras"], None, ""),
        (["preview", "step", "--knob", "gamma=7"], None, "gamma"),
        (["list", "--state", "asleep"], None, "asleep"),
        (["frobnicate"], None, "No such command"),
    ],
)
def test_what_cannot_be_accepted_is_told_in_words(
    service: Database, arguments: list[str], stdin: str | None, said: str
) -> None:
    assert said in run(*arguments, stdin=stdin, code=2).output


def test_no_server_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(client, "Client", partial(Client, key=KEY, transport=httpx.MockTransport(refuse)))
    assert "no lrtune server answers" in run("list", code=3).output


def test_no_key_is_told_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LRTUNE_API_KEY", raising=False)
    assert "LRTUNE_API_KEY" in run("list", code=2).output


def test_a_key_that_the_server_does_not_know_is_named_with_where_it_came_from(
    service: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LRTUNE_API_KEY", "stale-key-of-last-week")
    said = words(run("list", code=2))
    assert "does not know the key that begins with 'stale-', from LRTUNE_API_KEY" in said
    assert "last-week" not in said
    (tmp_path / "old").write_text("another-key-of-before\n")
    monkeypatch.delenv("LRTUNE_API_KEY")
    monkeypatch.setenv("LRTUNE_CREDENTIALS", str(tmp_path / "old"))
    for arguments in (["list"], ["datasets", "add", str(tmp_path / "old")], ["watch", "job-0123456789abcdef"]):
        said = words(run(*arguments, code=2)).replace(" ", "")
        assert f"'anothe',from{tmp_path}/old(LRTUNE_CREDENTIALS)" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "--sort", "best"], "accepted is 'newest'"),
        (["submit", "digits", "--steps", "1"], "greater than or equal to 2"),
        (["submit", "nonsense"], "no worker has announced"),
        (["show", "job-none"], "there is no job"),
    ],
)
def test_an_error_is_said_once(service: Database, arguments: list[str], sentence: str) -> None:
    assert words(run(*arguments, code=2)).count(sentence) == 1


def test_jobs_are_searched_sorted_and_compared(service: Database) -> None:
    ended(service, JobState.SUCCEEDED)
    wide = str(submitted("--name", "wide", "--tag", "team=risk", "--schedule", "linear")["id"])
    narrow = str(submitted("--name", "narrow", "--tag", "team=risk", "--full-runs", "7")["id"])
    found = [job["id"] for job in json.loads(run("jobs", "--search", "RISK", "--sort", "name", "--json").stdout)]
    assert found == [narrow, wide]
    assert json.loads(run("list", "--search", "risk", "--task", "images", "--json").stdout) == []
    assert ["there are more" in run("list", "-s", "risk", "--limit", limit).stderr for limit in "12"] == [True, False]
    said = words(run("compare", wide, narrow))
    assert "budget.full_runs 20 7" in said
    assert "schedules.linear" not in said, "both try it"
    assert "schedules.cosine – as usual" in said
    assert "all are about digits, val_loss after 40 steps" in said
    assert [job["id"] for job in json.loads(run("compare", wide, narrow, "--json").stdout)] == [wide, narrow]
    assert "accepted are two or more" in run("compare", wide, wide, code=2).output


def test_watching_a_job_to_its_good_end_shows_the_answer(service: Database) -> None:
    said = words(run("watch", ended(service, JobState.SUCCEEDED)))
    assert "wsd (decay 0.2, shape linear, final 0, power 1), warm-up 5 %" in said
    assert "val_loss 0.25 in a single run, not confirmed" in said
    assert "50 % better than untuned" in said
    assert "0.002 ┤" in said
    assert "40 steps" in said


def test_a_search_that_is_stopped_while_it_is_watched_is_a_line(
    service: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.01)
    job, into, looks = str(submitted()["id"]), StringIO(), count()
    with Client() as client:

        def check() -> None:
            look = next(looks)
            if look == 0:
                client.stop(job)
            elif look == 3000 or "stopped" in into.getvalue():
                client.cancel(job)

        watch.follow(client, job, out.screen(file=into), check=check)
    said = [line for line in into.getvalue().splitlines() if "stopped" in line]
    assert said == [
        f"the search of job {job} is stopped: what it trains now is trained on, then its answer is confirmed"
    ]


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_watching_a_job_to_a_bad_end_is_exit_code_1(service: Database, state: JobState) -> None:
    said = words(run("watch", ended(service, state, reason="the file is gone"), code=1))
    assert f"is {state}: the file is gone" in said


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
def test_a_terminal_without_the_characters_shows_others(service: Database, charset: str) -> None:
    """LANG=C, a Windows code page, or PYTHONIOENCODING: a drawn curve ended the command there."""
    submitted("--name", "größe ★ 尺寸")
    for command, said in {
        ("preview", "cosine"): "1 |....",
        ("list",): "gr",
        ("watch", ended(service, JobState.SUCCEEDED)): "0.002 |",
        ("--help",): "preview",
    }.items():
        found = CliRunner(charset=charset).invoke(commands.app, list(command))
        assert (found.exit_code, said in found.output) == (0, True), found.output


def test_in_a_narrow_terminal_curves_are_narrow_and_trials_and_comparisons_are_whole(
    service: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    one, other = ended(service, JobState.SUCCEEDED), str(submitted("--name", "other")["id"])
    for command, cells in {
        ("preview", "cosine"): ("1 ┤⠉", "1000 steps"),
        ("best", one): ("0.002 ┤", "40 steps"),
        ("show", one): (one, "baseline", "40/40", "0.25"),
        ("compare", one, other): (one, other, "succeeded, 100%"),
    }.items():
        said = run(*command).stdout
        assert [cell for cell in cells if cell not in said] == [], said
        assert max(len(line) for line in said.splitlines() if "`" not in line) <= 40, "a command is one line to copy"


def test_a_job_that_is_shown_says_why_it_failed_or_what_it_waits_for(service: Database) -> None:
    assert "the file is gone" in words(run("show", ended(service, JobState.FAILED, reason="the file is gone")))
    assert "no worker is alive" in words(run("show", str(submitted()["id"])))


def test_ctrl_c_leaves_the_job_running_and_says_so(service: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=interrupted, monotonic=lambda: 0.0))
    said = run("submit", "digits", "--watch", code=130).output
    assert "the job goes on without you" in said
    assert [job["state"] for job in json.loads(run("list", "--json").stdout)] == ["queued"]


def test_every_reading_command_speaks_json(service: Database) -> None:
    job = ended(service, JobState.SUCCEEDED)

    def read(*arguments: str) -> Any:
        return json.loads(run(*arguments, "--json").stdout)

    assert read("list")[0]["id"] == read("show", job)["id"] == job
    assert read("best", job)["value"] == 0.25
    assert "digits" in [task["name"] for task in read("tasks")]
    assert "one-cycle" in [one["family"] for one in read("schedules")]
    assert read("preview", "linear", "--steps", "4")["curve"] == [[0, 1.0], [1, 0.75], [2, 0.5], [3, 0.25]]
    assert read("workers") == []


def test_every_reading_command_speaks_to_people(service: Database) -> None:
    job = ended(service, JobState.SUCCEEDED)
    assert "succeeded" in words(run("list"))
    assert "baseline complete 40/40 0.5" in words(run("show", job))
    assert "lrtune export" in words(run("best", job))
    assert "Handwritten digits" in words(run("tasks"))
    assert "1.0 / (1.0 + decay" in words(run("schedules"))
    assert "1000 steps" in words(run("preview", "cosine", "--warmup", "0.1", "--knob", "final=0.1"))
    assert "seen_at" in words(run("workers"))


def test_the_exported_file_runs(service: Database, tmp_path: Path) -> None:
    job, file = ended(service, JobState.SUCCEEDED), tmp_path / "learning_rate.py"
    run("export", job, "--output", str(file))
    compile(file.read_text(), "learning_rate.py", "exec")
    assert run("export", job, "--format", "csv").stdout.startswith("step,learning_rate\n0,0.001")
    assert "import keras" in run("export", job, "--format", "keras").stdout
    assert "found the format 'fax'" in words(run("export", job, "--format", "fax", code=2))


def test_a_job_can_be_paused_resumed_stopped_extended_cancelled_and_deleted(service: Database) -> None:
    job = str(submitted()["id"])
    assert "paused" in run("pause", job).output
    assert "is queued" in run("resume", job).output
    assert "search stopped; at most 13 full runs to come" in words(run("stop", job))
    assert json.loads(run("extend", job, "--json").stdout)["stopped_at"] is None, "with the budget that it had"
    assert "greater than 0" in run("extend", job, "--full-runs", "0", code=2).output
    assert json.loads(run("extend", job, "--full-runs", "50", "--json").stdout)["spec"]["budget"]["full_runs"] == 50
    assert "only a finished one can be deleted" in run("delete", job, code=2).output
    assert "cancelled" in [run(verb, job) for verb in ("stop", "cancel")][-1].output
    assert "to come" not in words(run("stop", job)), "of a job that is over nothing is"
    run("delete", job)
    run("show", job, code=2)


def test_a_curve_is_drawn_with_its_peak_and_its_steps() -> None:
    lines = terminal.plot(lambda step: 0.5 if step < 50 else 0.0, 100, width=12, height=2).splitlines()
    assert lines == [
        "0.5 ┤⠉⠉⠉⠉⠉⠉⡆⠀⠀⠀⠀⠀",
        "  0 ┤⠀⠀⠀⠀⠀⠀⣇⣀⣀⣀⣀⣀",
        "    └────────────",
        "     0  100 steps",
    ]


def test_the_client_follows_the_log_of_a_real_server_to_its_end(service: Database) -> None:
    job = ended(service, JobState.SUCCEEDED)
    with Client() as connected:
        seen = list(connected.watch(job))
        assert [event.id for event in seen] == list(range(1, len(seen) + 1))
        assert (seen[0].kind, seen[-1].kind) == ("job-submitted", "job-succeeded")
        assert connected.wait(job).state is JobState.SUCCEEDED
        assert [trial.number for trial in connected.trials(job)] == [0, 1]
        assert connected.trial(job, 1).reports[0].metrics == {"val_loss": 0.25}
        assert connected.best(job).schedule.over(40)(0) == 0.5  # 5 % of 40 steps warm up
