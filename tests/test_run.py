"""`lrtune run JOB -- COMMAND` and `lrtune.trial()`: real commands against a real server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune import errors, script
from lrtune.client import Client
from lrtune.runner import Options, Runner
from tests.external import submit
from tests.serving import KEY, finished, served

ROOT = Path(__file__).parent.parent
SCRIPT = """
import os, sys
from pathlib import Path
import torch
import lrtune

trial = lrtune.trial()
model = torch.nn.Linear(4, 1)
optimizer = trial.optimizer(model.parameters())
start = trial.restore(model=model, optimizer=optimizer)
scheduler = trial.scheduler(optimizer, step=start)
for step in range(start + 1, trial.until + 1):
    with open("rates", "a") as file:
        print(trial.number, step, optimizer.param_groups[0]["lr"], file=file)
    loss = model(torch.ones(4)).pow(2).sum()
    optimizer.zero_grad(), loss.backward(), optimizer.step(), scheduler.step()
    if step == 6 and trial.number == 1 and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), 9)
    if trial.report(step, val_loss=loss.item() + 1.0):
        break
"""
LOOP = """
import os, time
from pathlib import Path
import lrtune

trial = lrtune.trial()
Path("pid").write_text(str(os.getpid()))
trial.report(1, val_loss=1.0)
time.sleep(120)
"""


@pytest.fixture
def door(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        for name, value in {"LRTUNE_URL": str(client.base_url), "LRTUNE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield client


def work(job: str, *command: str, **options: Any) -> Runner:
    with Client() as client:
        runner = Runner(client, job, command, Options(**options))
        runner.work()
    return runner


def test_one_script_is_tuned_dies_goes_on_and_is_the_real_run(
    door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    alone = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True, check=False)
    assert "start it with `lrtune run JOB -- python script.py`" in alone.stderr
    job = submit(door, horizon={"steps": 20}, budget={"trials": 2}, schedules=["cosine"])
    runner = work(job, sys.executable, "train.py")
    found = door.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "succeeded", found
    assert runner.exits.pop(-9) == 1
    assert set(runner.exits) == {0}
    trials = door.get(f"/v1/jobs/{job}/trials").json()["items"]
    assert sum(one["step"] - one["reused"] for one in trials) / 20 == pytest.approx(found["progress"]["full_runs"])
    assert not list((tmp_path / "checkpoints").rglob("*.pt")), "what no trial needs is deleted"
    (tmp_path / "rates").unlink()
    (tmp_path / "died").touch()
    real = subprocess.run(
        [sys.executable, "train.py"], env=os.environ | {"LRTUNE_JOB": job}, capture_output=True, text=True, check=False
    )
    assert real.returncode == 0, real.stderr
    used = [float(line.split()[2]) for line in (tmp_path / "rates").read_text().splitlines()]
    with Client() as client:
        assert used == list(client.rates(job, found["best"]["trial"]))


def test_a_command_that_always_dies_fails_its_trial_with_the_end_of_its_output(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 1})
    runner = work(job, "sh", "-c", "echo out of luck; exit 7", tries=2)
    assert set(runner.exits) == {7}
    assert runner.exits[7] % 2 == 0
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert trial["state"] == "failed"
    assert trial["reason"] == "after 2 tries, the command ended with exit code 7; the last it printed:\nout of luck"


def test_a_silent_command_is_stopped_with_all_that_it_has_started(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 1})
    work(job, "sh", "-c", "sleep 60; true", tries=1, silence=0.3, grace=0.2)
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert (trial["state"], "nothing was heard of the command" in trial["reason"]) == ("failed", True)


def test_a_command_that_reports_nothing_hears_what_was_missing(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 1})
    assert work(job, "sh", "-c", "echo done").exits.keys() == {0}
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert trial["state"] == "failed"
    assert "without a report of its own" in trial["reason"]
    assert trial["reason"].endswith("done")


def test_what_cannot_be_run_is_a_sentence(door: httpx.Client, sqlite_url: str) -> None:
    job = submit(door)
    with pytest.raises(errors.Invalid, match="found 'no-such-program', which is no program here"):
        work(job, "no-such-program")
    with pytest.raises(errors.UnknownJob):
        work("job-0123456789abcdef", "true")
    with pytest.raises(errors.NotExternal):
        work(finished(door, sqlite_url), "true")


def waits(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_lrtune_run_leaves_nothing_running_and_its_trial_waits_at_once(
    door: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "loop.py").write_text(LOOP)
    job = submit(door)
    cli = "from lrtune.cli.commands import app; app()"
    arguments = [sys.executable, "-c", cli, "run", job, "--whole", "--", "setsid", "--wait", sys.executable, "loop.py"]
    with subprocess.Popen(arguments) as running:
        waits(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        running.kill()
    process = int((tmp_path / "pid").read_text())
    waits(lambda: not alive(process))
    waits(lambda: door.get(f"/v1/jobs/{job}/trials/0").json()["state"] == "waiting")
    assert "its `lrtune run` was killed" in door.get(f"/v1/jobs/{job}/events").text


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_sigterm_pauses_the_trial_in_hand_and_ends(door: httpx.Client, tmp_path: Path) -> None:
    job = submit(door)
    waiting = "trap 'exit 0' TERM; touch up; while :; do sleep 0.05; done"
    cli = "from lrtune.cli.commands import app; app()"
    with subprocess.Popen([sys.executable, "-c", cli, "run", job, "--", "sh", "-c", waiting]) as running:
        waits(lambda: (tmp_path / "up").exists())
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert (trial["state"], trial["attempt"]) == ("waiting", 0)


def test_the_real_run_follows_the_rates_of_a_winner_that_looked_at_its_loss(
    door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plateau = {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}
    job = submit(door, schedules=[plateau], warmup=0.0)
    with Client() as client:
        for trial in client.get(job).trials():
            for step in range(4, 41, 4):
                trial.report(step, val_loss=1.0 - 0.1 * trial.number)
        best = client.best(job)
        rates = list(client.rates(job, best.trial))
    monkeypatch.setenv("LRTUNE_JOB", job)
    real = script.trial()
    assert [real.learning_rate(step) for step in range(40)] == rates
    assert rates[-1] < rates[0]
    assert real.report(40, val_loss=1.0) is False
    assert script.trial(steps=80).steps == 80
    (tmp_path / "best.json").write_text(best.model_dump_json())
    monkeypatch.setenv("LRTUNE_JOB", "best.json")
    with pytest.raises(errors.LrtuneError, match="looks at the loss; name the job by its id"):
        script.trial()
    (tmp_path / "best.json").write_text(json.dumps({"no": "answer"}))
    with pytest.raises(errors.LrtuneError, match="`lrtune best JOB --json` writes one"):
        script.trial()


@pytest.mark.timeout(180)
def test_two_processes_under_torchrun_train_one_trial_and_a_killed_one_is_started_again(
    door: httpx.Client, tmp_path: Path
) -> None:
    team = SCRIPT.replace(
        "trial = lrtune.trial()", "torch.distributed.init_process_group('gloo')\ntrial = lrtune.trial()"
    )
    team = team.replace("trial.number == 1 and", "torch.distributed.get_rank() == 1 and")
    (tmp_path / "train.py").write_text(team)
    job = submit(door, horizon={"steps": 20}, budget={"trials": 1}, schedules=["cosine"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    runner = work(job, *torchrun, "train.py")
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
    assert sorted(runner.exits) == [0, 1]
    used = [line.split() for line in (tmp_path / "rates").read_text().splitlines()]
    for number in {line[0] for line in used}:
        trial = door.get(f"/v1/jobs/{job}/trials/{number}").json()
        assert trial["step"] - trial["reused"] == 20
    first = {(number, step): {rate for at, to, rate in used if (at, to) == (number, step)} for number, step, _ in used}
    assert all(len(rates) == 1 for rates in first.values()), "all ranks train at one rate"
