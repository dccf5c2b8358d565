"""`lrtune run JOB -- COMMAND` and `lrtune.trial()`: real commands against a real server."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lrtune import errors, script
from lrtune.client import Client
from lrtune.runner import Options, Runner
from tests.commands import alive, heard, plain, said, started, waits, work
from tests.commands import door as door
from tests.external import JOB, submit
from tests.people import made
from tests.serving import KEY, finished

ROOT = Path(__file__).parent.parent
LOOP = """
import os, time
from pathlib import Path
import lrtune

trial = lrtune.trial()
Path("pid").write_text(str(os.getpid()))
trial.report(1, val_loss=1.0)
time.sleep(120)
"""
PATIENT = """
import time
from pathlib import Path
import lrtune

trial = lrtune.trial()
for step in range(1, trial.steps + 1):
    if trial.report(step, val_loss=1 / step):
        break
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.02)
"""


def test_a_script_that_nobody_started_for_a_trial_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRTUNE_TRIAL", raising=False)
    monkeypatch.delenv("LRTUNE_JOB", raising=False)
    with pytest.raises(errors.LrtuneError, match=r"start it with `lrtune run JOB -- python .*set LRTUNE_JOB"):
        script.trial()
    monkeypatch.setenv("LRTUNE_TRIAL", "nowhere.json")
    with pytest.raises(errors.LrtuneError, match=r"LRTUNE_TRIAL: .*nowhere\.json.*; `lrtune run` sets it"):
        script.trial()


def test_a_command_that_always_dies_fails_its_trial_with_the_end_of_its_output(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 1})
    runner = work(job, "sh", "-c", "echo out of luck; exit 7", tries=2)
    assert set(runner.exits) == {7}
    noted = said(door, job, "trial-noted")
    assert noted[0].startswith("trial 0: the command ended with exit code 7 (1 of 2 tries), and is started again")
    assert runner.exits[7] % 2 == 0
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert trial["state"] == "failed"
    assert trial["reason"] == "after 2 tries, the command ended with exit code 7; the last it printed:\nout of luck"


@pytest.mark.parametrize("holding", ["trial = lrtune.trial()", "with lrtune.trial() as trial:"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trial.report(trial.steps, loss=1.0)", "found loss at step 40, but no report has val_loss"),
        ("lrtune.trial(steps=7)", "found a run of 7 steps; the job's trials have 40"),
        ("trial.report(41, val_loss=1.0)", "a run that is longer needs its number of steps as the job's `horizon`"),
    ],
)
def test_what_lrtune_refuses_fails_its_trial_at_once_with_the_sentence(
    door: httpx.Client, tmp_path: Path, holding: str, line: str, words: str
) -> None:
    job = submit(door, budget={"trials": 1})
    (tmp_path / "train.py").write_text(f"import lrtune\n{holding}\n{' ' * holding.endswith(':')}{line}\n")
    runner = work(job, sys.executable, "train.py", tries=3)
    trials = door.get(f"/v1/jobs/{job}/trials").json()["items"]
    assert (runner.exits, {trial["state"] for trial in trials}) == ({1: len(trials)}, {"failed"})
    reason = door.get(f"/v1/jobs/{job}/trials/0").json()["reason"]
    assert words in reason
    assert "Traceback" not in reason


def test_a_script_that_stops_early_by_itself_hears_here_and_now_that_its_trial_cannot_win(
    door: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script whose early stopping was left on had its best rates thrown away, and heard of it in the report alone."""
    job = submit(door, budget={"trials": 1})
    (tmp_path / "train.py").write_text("import lrtune\ntrial = lrtune.trial()\ntrial.report(10, val_loss=1.0)\n")
    work(job, sys.executable, "train.py")
    shown = capsys.readouterr()
    assert "trial 0 cannot win: its loop ended it at step 10 of 40" in shown.out + shown.err
    assert "if that was early stopping, switch it off" in shown.out + shown.err


def test_whoever_trains_a_job_that_is_paused_hears_so_and_goes_on_as_it_is_resumed(
    door: httpx.Client, tmp_path: Path
) -> None:
    job = submit(door, budget={"trials": 1}, confirm={"top": 0})
    (tmp_path / "train.py").write_text(PATIENT)
    with started(job, "--whole", "--", sys.executable, "train.py") as running:
        waits(lambda: (tmp_path / "begun").exists())
        assert door.post(f"/v1/jobs/{job}/pause").status_code == 202
        (tmp_path / "go").touch()
        heard(running, "trial 0 waits, as the job is paused; this goes on once it is resumed")
        assert door.post(f"/v1/jobs/{job}/resume").status_code == 202
        heard(running, "the job is over (succeeded)")


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
    assert "without a report of its own (no report has val_loss; accepted is" in trial["reason"]
    assert trial["reason"].endswith("done")


REVOKED = """
import signal, sys, time
import httpx

signal.signal(signal.SIGTERM, lambda *_: (open("saved", "w"), sys.exit(0)))
httpx.delete("{url}/v1/keys/{id}", headers={{"Authorization": "Bearer {key}"}}, trust_env=False)
while True:
    time.sleep(0.05)
"""


def test_a_command_whose_key_is_revoked_has_time_to_save_what_it_likes(
    door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = made(door, "ada")
    monkeypatch.setenv("LRTUNE_API_KEY", ada["key"])
    with Client() as client:
        job = client.submit(JOB).id
    (tmp_path / "train.py").write_text(REVOKED.format(url=door.base_url, id=ada["id"], key=KEY))
    with pytest.raises(errors.Unauthorized, match="it was revoked, or is another server's"):
        work(job, sys.executable, "train.py", lease_seconds=1.0, grace=3.0)
    assert (tmp_path / "saved").exists()


def test_what_cannot_be_run_is_a_sentence(door: httpx.Client, sqlite_url: str) -> None:
    job = submit(door)
    with pytest.raises(errors.Invalid, match="found 'no-such-program', which is no program here"):
        work(job, "no-such-program")
    with pytest.raises(errors.UnknownJob):
        work("job-0123456789abcdef", "true")
    with pytest.raises(errors.NotExternal):
        work(finished(door, sqlite_url), "true")


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


def test_a_script_that_comes_too_late_for_its_killed_lrtune_run_gives_the_trial_back(
    door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, file = submit(door), tmp_path / "trial.json"
    with Client() as client:
        runner = Runner(client, job, ["true"], Options())
        held = runner.take()
        assert held is not None
        file.write_text(json.dumps(runner._written(held)))
    monkeypatch.setenv("LRTUNE_TRIAL", str(file))
    with pytest.raises(errors.LrtuneError, match="the `lrtune run` that has set it is gone"):
        script.trial()
    assert said(door, job, "trial-released") == ["trial 0 released: its `lrtune run` was killed"]


def test_ctrl_c_asks_a_command_to_end_and_a_second_one_ends_it(door: httpx.Client, tmp_path: Path) -> None:
    job = submit(door)
    stubborn = "trap '' TERM INT; touch up; while :; do sleep 0.05; done"
    with started(job, "--grace", "600", "--", "sh", "-c", stubborn) as running:
        waits((tmp_path / "up").exists)
        running.send_signal(signal.SIGINT)
        heard(running, "it was asked to stop; the command has 600 s to end")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert (trial["state"], trial["attempt"]) == ("waiting", 0)


def test_a_command_that_hangs_after_sigterm_is_killed(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 1})
    runner = work(job, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", tries=1, silence=0.3, grace=0.2)
    assert runner.exits == {-9: 2}, "the baseline, and since that failed one run more"
    assert door.get(f"/v1/jobs/{job}/trials/0").json()["state"] == "failed"


def test_a_command_that_the_system_cannot_start_gives_its_trial_back(door: httpx.Client, tmp_path: Path) -> None:
    job = submit(door)
    (tmp_path / "train").write_bytes(b"\x7fELF is not what this is")
    (tmp_path / "train").chmod(0o755)
    with pytest.raises(errors.LrtuneError, match=r"the command cannot be started: Exec format error: \./train"):
        work(job, "./train")
    assert door.get(f"/v1/jobs/{job}/trials/0").json()["state"] == "waiting"


def test_what_dies_after_its_last_report_is_not_trained_again(door: httpx.Client, tmp_path: Path) -> None:
    job = submit(door, budget={"trials": 1}, horizon={"steps": 20})
    runner = work(job, *plain(tmp_path, after='print("segmentation fault"); os.abort()'))
    assert runner.exits == {-6: 1}
    assert door.get(f"/v1/jobs/{job}/trials/0").json()["state"] == "complete"
    (noted,) = said(door, job, "trial-noted")
    assert "ended by SIGABRT, after the report of its last step, which stands; the last it printed:" in noted


def test_the_real_run_follows_the_rates_of_a_winner_that_looked_at_its_loss(
    door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plateau = {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}
    job = submit(door, schedules=[plateau], warmup=0.0)
    with Client() as client:
        for trial in client.get(job).trials():
            for step in range(4, 41, 4):
                trial.learning_rate(step - 1)
                trial.report(step, val_loss=1.0 - 0.1 * trial.number)
        best = client.best(job)
        rates = list(client.rates(job, best.trial))
    monkeypatch.setenv("LRTUNE_JOB", job)
    real = script.trial()
    assert [real.learning_rate(step) for step in range(40)] == rates
    assert rates[-1] < rates[0]
    assert [real.report(step, val_loss=1.0) for step in (40, 41, 42)] == [False, False, False]
    assert [one.message for one in caplog.records if one.name == "lrtune.loop"] == [
        "found step 41 in a report, and the rates are those of a run of 40 steps: they stay at the last; "
        "ask for all of yours with `lrtune.trial(steps=N)`"
    ], "a real run of hours does not end for a report"
    with pytest.raises(errors.Invalid, match="accepted is a whole number from 1 to 40"):
        real.report(0, val_loss=1.0)
    assert script.trial(steps=80).steps == 80
    (tmp_path / "best.json").write_text(best.model_dump_json())
    monkeypatch.setenv("LRTUNE_JOB", "best.json")
    with pytest.raises(errors.LrtuneError, match="looks at the loss; name the job by its id"):
        script.trial()
    (tmp_path / "best.json").write_text(json.dumps({"no": "answer"}))
    with pytest.raises(errors.LrtuneError, match=r"found no answer of a job; `lrtune best JOB --json` writes one"):
        script.trial()
