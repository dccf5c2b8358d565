"""`lrtune run` in the tests: a server whose address every command finds, scripts, and what came of a job."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune.client import Client
from lrtune.runner import Options, Runner
from tests.prefork import prefork
from tests.serving import KEY, served

ROOT = Path(__file__).parent.parent
STAGED: dict[str, Any] = {"horizon": {"steps": 20}, "budget": {"full_runs": 2.5}, "schedules": ["cosine"]}
FEW = STAGED | {"budget": {"full_runs": 2.2}}  # seven stages instead of thirteen
# A training whose state is a number and a random generator, kept in a file; so small that it starts in no time.
PLAIN = """
import json, os, random, sys, time
from pathlib import Path
import lrtune

def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.02)

def write(name, *what):
    with open(name, "a") as file:
        file.write(" ".join(map(str, what)) + chr(10))

trial = lrtune.trial()
trial.keeps_itself = True
state, generator = 2.0, random.Random(trial.seed)
BEFORE
if kept := trial.checkpoint_path:
    state, internal = json.loads((Path(kept) / "state").read_text())
    generator.setstate((internal[0], tuple(internal[1]), internal[2]))
write("stages", trial.number, trial.start, os.getppid())
for step in range(trial.start + 1, trial.until + 1):
    state -= 30 * trial.learning_rate(step - 1) * (state - 1 + generator.gauss(0, 0.1))
    write("steps", trial.number, step, state, os.getpid())
    DURING
    if trial.report(step, val_loss=abs(state - 1)):
        if trial.pausing and not trial.over:
            kept = json.dumps([state, generator.getstate()])
            trial.keep(step, lambda folder: (folder / "state").write_text(kept))
        break
AFTER
"""


@pytest.fixture
def door(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        for name, value in {"LRTUNE_URL": str(client.base_url), "LRTUNE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield client


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The beginning of a command that finds its imports done, for those whose process is nobody's but their own."""
    with prefork(tmp_path_factory.mktemp("prefork"), {"PYTHONPATH": str(ROOT)}) as found:
        yield found


def python(folder: Path, start: Sequence[str]) -> Path:
    """A folder in which `python` begins a command like this."""
    (found := folder / "bin").mkdir()
    (found / "python").write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n')
    (found / "python").chmod(0o755)
    return found


def plain(
    folder: Path, start: Sequence[str] = (sys.executable,), *, before: str = "", during: str = "", after: str = ""
) -> list[str]:
    """The command of the plain training, with accidents."""
    text = PLAIN.replace("BEFORE", before).replace("DURING", during).replace("AFTER", after)
    (folder / "plain.py").write_text(text)
    return [*start, "plain.py"]


def work(job: str, *command: str, **options: Any) -> Runner:
    """`lrtune run` in this process, until it ends."""
    with Client() as client:
        runner = Runner(client, job, command, Options(**options))
        runner.work()
    return runner


def started(job: str, *words: str) -> subprocess.Popen[str]:
    """`lrtune run` in a process of its own; what it says is in `stderr`."""
    cli = [sys.executable, "-c", "from lrtune.cli.commands import app; app()", "run", job, *words]
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background commands ignore
    return subprocess.Popen(cli, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heeding)


def heard(running: subprocess.Popen[str], what: str) -> str:
    """Wait until it says this; the line."""
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if what in line:
            return line
    raise AssertionError(f"never said {what!r}: {''.join(said)}")


def waits(condition: Callable[[], object]) -> None:
    """Until it is so; a minute of patience for a machine that is busy."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: int) -> bool:
    """Whether it runs, and is not merely not waited for."""
    try:
        os.kill(process, 0)
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


def lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def trials(door: httpx.Client, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = door.get(f"/v1/jobs/{job}/trials", params={"limit": 200}).json()["items"]
    return found


def log(door: httpx.Client, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = door.get(f"/v1/jobs/{job}/events", params={"limit": 1000}).json()["items"]
    return found


def said(door: httpx.Client, job: str, kind: str) -> list[str]:
    """The lines of a kind in a job's log."""
    return [one["message"] for one in log(door, job) if one["kind"] == kind]


def add_up(door: httpx.Client, job: str) -> None:
    """The job has its answer, and what its trials have cost is what it says it has spent."""
    found = door.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "succeeded", found["reason"]
    paid = sum(one["step"] - one["reused"] for one in trials(door, job)) / 20
    assert found["progress"]["full_runs"] == pytest.approx(paid)
