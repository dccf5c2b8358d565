"""Tasks that are commands: what an operator writes, what users may ask, and how a worker runs them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

import migrations
from lrtune.client import Client
from lrtune.errors import TaskError
from lrtune.store import Database
from lrtune.store.tables import JobRow
from lrtune.wire.results import Best
from tests.commands import forked as forked
from tests.commands import python
from tests.serving import KEY, Done, served, slug
from worker.commands import find
from worker.loop import Worker
from worker.settings import Settings

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, os, sys, time
import torch
import lrtune

trial = lrtune.trial()
width = json.loads(os.environ["LRTUNE_PARAMS"])["width"]
assert sys.argv[1:] == ["--width", str(width), "a name; $(touch hacked)"], sys.argv
model = torch.nn.Linear(width, 1)
optimizer = trial.optimizer(model.parameters())
start = trial.restore(model=model, optimizer=optimizer)
scheduler = trial.scheduler(optimizer, step=start)
for step in range(start + 1, trial.until + 1):
    loss = model(torch.ones(width)).pow(2).sum()
    optimizer.zero_grad(), loss.backward(), optimizer.step(), scheduler.step()
    with open("steps", "a") as file:
        print(trial.number, step, file=file)
    if trial.report(step, val_loss=loss.item() + 1.0):
        break
"""
FILE = f"""
[llama]
summary = "A small llama."
command = [{json.dumps(sys.executable)}, "train.py", "--width", "{{width}}", "{{name}}"]
metrics = {{ val_loss = "minimize" }}
ranges = {{ val_loss = [0.0, inf] }}
steps = 40
checkpoints = "own"

[llama.params]
width = {{ type = "integer", minimum = 1, maximum = 64, default = 4 }}
name = {{ type = "string" }}
"""
PARAMS = {"name": "a name; $(touch hacked)"}


@pytest.fixture
def door(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "train.py").write_text(SCRIPT)
    (tmp_path / "here" / "commands.toml").write_text(FILE)
    with served(sqlite_url) as client:
        for name, value in {"LRTUNE_URL": str(client.base_url), "LRTUNE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield client


def settings(url: str, tmp_path: Path) -> dict[str, Any]:
    kept = str(tmp_path / "states")
    return {"database_url": url, "device": "cpu", "state_dir": kept, "commands": tmp_path / "here" / "commands.toml"}


def begin(tmp_path: Path, start: list[str]) -> None:
    """Let the command begin like this."""
    table = FILE.replace(json.dumps([sys.executable])[1:-1], json.dumps(start)[1:-1])
    (tmp_path / "here" / "commands.toml").write_text(table)


def work(url: str, tmp_path: Path) -> None:
    """Let a worker do all there is to do."""
    Worker(Settings(**settings(url, tmp_path)), Done()).work()


def submit(door: httpx.Client, **fields: Any) -> httpx.Response:
    return door.post("/v1/jobs", json={"task": {"name": "llama", "params": PARAMS}, "confirm": {"top": 0}} | fields)


def test_users_submit_jobs_to_an_operators_command_and_a_worker_trains_them_in_stages(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, forked: list[str]
) -> None:
    begin(tmp_path, forked)
    work(sqlite_url, tmp_path)
    listed = next(one for one in door.get("/v1/tasks").json()["items"] if one["name"] == "llama")
    assert (listed["summary"], listed["command"], listed["steps"]) == ("A small llama.", True, 40)
    assert listed["ranges"] == {"val_loss": [0.0, None]}
    answer = submit(door, budget={"full_runs": 2}, schedules=["cosine", "wsd"])
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["task"] == {"name": "llama", "params": {"width": 4, **PARAMS}, "command": True}
    job = answer.json()["id"]
    work(sqlite_url, tmp_path)
    found = door.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "succeeded", found
    trials = door.get(f"/v1/jobs/{job}/trials?limit=100").json()["items"]
    trained = len((tmp_path / "here" / "steps").read_text().splitlines())
    assert trained == sum(one["step"] - one["reused"] for one in trials)
    assert trained / 40 == pytest.approx(found["progress"]["full_runs"])
    assert re.search(r" from step [1-9]", door.get(f"/v1/jobs/{job}/events").text), "in stages"
    assert not list((tmp_path / "here").rglob("*.pt")), "what no trial needs is deleted"
    assert not (tmp_path / "here" / "hacked").exists()
    again = door.post("/v1/jobs", json=found["spec"])
    assert again.status_code == 201, "the job as the service gives it can be submitted again"
    with Client() as client:
        assert isinstance(client.best(job), Best)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"task": "llama"}, "/task", "found 'llama' without params.name; this field is needed"),
        ({"task": {"name": "llama", "params": PARAMS | {"width": 65}}}, "/task/params/width", "a number of at most 64"),
        ({"task": {"name": "llama", "params": PARAMS | {"depth": 2}}}, "/task/params/depth", "fields are width, name"),
        ({"task": {"name": "llama", "params": {"name": "--output=/etc"}}}, "/task/params/name", "(?!-)"),
        ({"horizon": {"epochs": 2}}, "/horizon", "found epochs; the task llama needs optimizer steps"),
        ({"training": {"ema": 0.9}}, "/training", "the task llama trains by a command, which decides this"),
        ({"task": {"name": "digits", "command": True}}, "/task/command", "'digits' is no command; leave it out"),
    ],
)
def test_what_a_command_cannot_do_is_refused_at_the_door(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, fields: dict[str, Any], pointer: str, words: str
) -> None:
    work(sqlite_url, tmp_path)
    answer = submit(door, **fields)
    assert slug(answer) == "invalid"
    (one,) = answer.json()["errors"]
    assert one["pointer"] == pointer
    assert words in one["detail"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[llama", "Expected ']'"),
        ("[llama]\nsteps = 2", "llama.command: Field required"),
        (
            FILE.replace("{width}", "{widht}"),
            "llama: found {widht} in the command; accepted are those of params: width",
        ),
        (FILE.replace('"integer"', '"whole"'), "llama: params.width.type: 'whole' is not valid"),
        (FILE.replace("ranges = { val_loss", "ranges = { acc"), "llama: found the range of acc; accepted are val_loss"),
        (FILE.replace("[llama", "[digits"), "digits is the name of a built-in task; accepted is another"),
        (FILE.replace(sys.executable, "no-such-program"), "llama.command: found 'no-such-program', no program here"),
        (FILE.replace("steps = 40", "steps = 1"), "llama.steps: Input should be greater than or equal to 2"),
        (FILE.replace("steps = 40", "steps = 40\nstep = 1"), "llama.step: Extra inputs are not permitted"),
        (FILE.replace('"own"', '"none"\ndeterministic = true'), "llama: found deterministic without checkpoints"),
        (
            FILE.replace('"own"', '"own"\nnodes = 2'),
            "llama: found checkpoints own over several nodes; accepted are shared",
        ),
        (FILE.replace("steps = 40", "steps = 40\nprocesses = 0"), "llama.processes: Input should be greater than or"),
        ("llama = 3", "llama: Input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_when_the_worker_starts(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "commands.toml").write_text(text)
    with pytest.raises(TaskError) as caught:
        find(tmp_path / "commands.toml")
    assert "commands.toml: " in str(caught.value)
    assert words in str(caught.value)
    with pytest.raises(TaskError, match="No such file"):
        find(tmp_path / "other.toml")


def test_a_parameter_may_be_called_as_its_option_is(tmp_path: Path) -> None:
    """It was passed on as it stands, `{hidden-width}`, and every trial of every job failed."""
    (tmp_path / "commands.toml").write_text(FILE.replace("width", "hidden-width"))
    command = find(tmp_path / "commands.toml")["llama"]
    assert "8" in command.with_params({"hidden-width": 8, "name": "x"})
    (tmp_path / "commands.toml").write_text(FILE.replace("{width}", "{hidden-width}"))
    with pytest.raises(TaskError, match=r"found .hidden-width. in the command; accepted are .*: width"):
        find(tmp_path / "commands.toml")


def test_what_a_shell_reads_is_no_parameter(tmp_path: Path) -> None:
    (tmp_path / "commands.toml").write_text(FILE.replace('"--width"', '"-c", "echo ${HOME} {} {a b}"'))
    command = find(tmp_path / "commands.toml")["llama"]
    assert command.with_params({"width": 8, "name": "x"})[2:] == ["-c", "echo ${HOME} {} {a b}", "8", "x"]


def test_a_worker_without_the_command_leaves_its_jobs_alone_and_trains_on_without_the_server(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(sqlite_url, tmp_path)
    job = submit(door).json()["id"]
    other = door.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": 20}, "budget": {"trials": 1}}).json()
    Worker(Settings(**settings(sqlite_url, tmp_path) | {"commands": None}), Done()).work()
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert door.get(f"/v1/jobs/{other['id']}").json()["state"] == "succeeded"
    again = door.post("/v1/jobs", json=other["spec"]).json()
    monkeypatch.setenv("LRTUNE_URL", "http://127.0.0.1:9")
    work(sqlite_url, tmp_path)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert door.get(f"/v1/jobs/{again['id']}").json()["state"] == "succeeded"


def waits(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_a_worker_that_is_asked_to_stop_pauses_its_command_and_the_next_one_goes_on(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, forked: list[str]
) -> None:
    slow = SCRIPT.replace(
        "    if trial.report", "    while not os.path.exists('go'):\n        time.sleep(0.02)\n    if trial.report"
    )
    (tmp_path / "here" / "train.py").write_text(slow)
    work(sqlite_url, tmp_path)
    job = submit(door, budget={"trials": 1}).json()["id"]
    given = {f"LRTUNE_{name.upper()}": str(value) for name, value in settings(sqlite_url, tmp_path).items()}
    steps = tmp_path / "here" / "steps"
    with subprocess.Popen([sys.executable, "-m", "worker"], env=os.environ | given, cwd=ROOT) as working:
        waits(steps.exists)
        (one,) = door.get("/v1/workers").json()["items"]
        assert (one["job"], one["trial"]) == (job, 0)
        working.send_signal(signal.SIGTERM)
        (tmp_path / "here" / "go").touch()
        assert working.wait(120) == 0
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert trial["state"] == "waiting", trial
    assert trial["step"] > 0
    begin(tmp_path, forked)
    work(sqlite_url, tmp_path)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
    assert [line for line in steps.read_text().splitlines() if line[:2] == "0 "] == [f"0 {at}" for at in range(1, 41)]


@pytest.mark.timeout(600)
def test_the_tutorial_from_the_script_to_the_answer(
    door: httpx.Client, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked: list[str]
) -> None:
    page = (ROOT / "docs/tutorials/commands.md").read_text()
    script, table, working, job = re.findall(r"^```(?:python file=train.py|toml|sh|json)\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "commands.toml").write_text(table)
    monkeypatch.setenv("PATH", f"{python(tmp_path, forked)}{os.pathsep}{os.environ['PATH']}")
    setting, *_ = shlex.split(working)
    name, _, path = setting.partition("=")
    monkeypatch.setenv(name, path)
    with Client() as client:
        Worker(Settings(database_url=sqlite_url, device="cpu"), Done()).work()
        made = client.submit(json.loads(job))
        Worker(Settings(database_url=sqlite_url, device="cpu"), Done()).work()
        found = client.get(made.id)
        assert (found.state, found.reason) == ("succeeded", "")
        assert client.best(made.id).value < 1.0


def test_a_database_of_the_release_before_knows_no_commands(
    door: httpx.Client, sqlite_url: str, tmp_path: Path
) -> None:
    work(sqlite_url, tmp_path)
    job = submit(door).json()["id"]
    database = Database(sqlite_url)
    migrations.downgrade(sqlite_url, "0013")
    with database.read() as tx:
        (spec,) = tx.scalars(select(JobRow.spec).where(JobRow.id == job))
        assert spec["task"] == {"name": "llama", "params": {"width": 4, **PARAMS}}
    database.dispose()
