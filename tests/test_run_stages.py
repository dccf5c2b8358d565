"""`lrtune run` in stages, with every accident that may befall a command, its host, and whoever runs it."""

import itertools
import os
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from lrtune import errors, script
from lrtune.client import Client
from lrtune.loop import LoopTrial
from lrtune.store import Database
from lrtune.store.database import clock
from lrtune.store.tables import LoopRow
from tests.commands import FEW, STAGED, add_up, heard, lines, plain, said, started, trials, waits, work
from tests.commands import door as door
from tests.commands import forked as forked
from tests.external import submit
from tests.serving import served

# One process or a team, with a dropout and a noise of each process's own; the last one of it dies once in mid-stage.
TORCH = """
import os, sys
from pathlib import Path
import torch
import lrtune

team, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
if team > 1:
    torch.distributed.init_process_group("gloo")
trial = lrtune.trial()
torch.manual_seed(trial.seed)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
optimizer = trial.optimizer(model.parameters())
torch.manual_seed(10 * trial.seed + rank)
start = trial.restore(model=model, optimizer=optimizer)
for step in range(start + 1, trial.until + 1):
    optimizer.param_groups[0]["lr"] = trial.learning_rate(step - 1)
    loss = (model(torch.randn(8, 4)) - 1).pow(2).mean()
    optimizer.zero_grad(), loss.backward()
    if team > 1:
        for one in model.parameters():
            torch.distributed.all_reduce(one.grad)
    optimizer.step()
    with open(f"{sys.argv[1]}-{rank}", "a") as file:
        print(trial.number, step, loss.item().hex(), file=file)
    if rank == team - 1 and trial.number and start < step < trial.until and not Path("died").exists():
        Path("died").touch()
        print("about to die", flush=True)
        os.kill(os.getpid(), 9)
    if trial.report(step, val_loss=loss.item()):
        break
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "start", [pytest.param([], id="one process"), pytest.param(TORCHRUN, id="torchrun", marks=pytest.mark.slow)]
)
def test_the_losses_of_every_process_are_those_of_the_real_run_however_often_the_trial_was_paused_and_died(
    door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked: list[str], start: list[str]
) -> None:
    (tmp_path / "train.py").write_text(TORCH)
    job = submit(door, **STAGED | {"budget": {"full_runs": 2}})
    command = [*([sys.executable, *start] if start else forked), "train.py"]
    work(job, *command, "tuned")
    add_up(door, job)
    assert any(
        "is started again" in line and ("about to die" in line or "SIGKILL" in line)
        for line in said(door, job, "trial-noted")
    )
    (number,) = {line[0] for line in lines(tmp_path / "tuned-0") if line[1] == "20"} - {"0"}
    assert len(door.get(f"/v1/jobs/{job}/trials/{number}").json()["stages"]) > 1, "it was paused"
    best = door.get(f"/v1/jobs/{job}/best").json() | {"trial": int(number)}
    chosen = door.get(f"/v1/jobs/{job}/trials/{number}").json()
    best |= {"configuration": chosen["configuration"], "seeds": [{"seed": chosen["seed"], "value": 0.0}]}
    (tmp_path / "best.json").write_text(httpx.Response(200, json=best).text)
    monkeypatch.setenv("LRTUNE_JOB", "best.json")
    assert os.spawnv(os.P_WAIT, sys.executable, [*command, "real"]) == 0
    for rank in range(2 if start else 1):
        tuned = {(at, loss) for trial, at, loss in lines(tmp_path / f"tuned-{rank}") if trial == number}
        assert tuned == {(at, loss) for _, at, loss in lines(tmp_path / f"real-{rank}")}
        assert len(tuned) == 20


ACCIDENTS = """
nth = len(Path("stages").read_text().splitlines()) if Path("stages").exists() else 0
resumed = trial.start > 0 and not Path("lost").exists()
if resumed:
    Path("lost").touch()
    shutil.rmtree(trial._folder)
elif trial.start > 0 and not Path("damaged").exists():
    Path("damaged").touch()
    (trial._folder / trial.checkpoint / "state").write_text("[9.0, null]")
"""
DEATH = """
    if step == 4 and not Path("died").exists():
        Path("died").touch()
        print("out of luck")
        sys.exit(3)
"""
GOES_ON = """
for step in range(trial.until + 1, trial.steps + 1):
    trial.report(step, val_loss=0.0)
"""


def test_a_job_survives_every_accident_of_its_command_and_its_log_says_what_happened(
    door: httpx.Client, tmp_path: Path, forked: list[str]
) -> None:
    job = submit(door, **STAGED)
    command = plain(tmp_path, forked, before="import shutil" + ACCIDENTS, during=DEATH.strip(), after=GOES_ON)
    runner = work(job, *command)
    add_up(door, job)
    assert runner.exits.pop(3) == 1
    assert set(runner.exits) == {0}
    (died,) = said(door, job, "trial-noted")
    assert died == (
        "trial 0: the command ended with exit code 3 (1 of 3 tries), and is started again from step 0; "
        "the last it printed:\nout of luck"
    )
    again = said(door, job, "trial-began-again")
    assert len(again) == 2
    assert all("its loop could not go on from the checkpoint" in line for line in again)
    reports = [door.get(f"/v1/jobs/{job}/trials/{one['number']}").json()["reports"] for one in trials(door, job)]
    assert all(0.0 not in [one["metrics"]["val_loss"] for one in of_trial] for of_trial in reports)
    assert not list((tmp_path / "checkpoints").rglob("state")), "what no trial needs is deleted"


def test_where_a_host_is_gone_with_its_folder_another_one_begins_its_trials_again(
    door: httpx.Client, tmp_path: Path, sqlite_url: str
) -> None:
    job = submit(door, **FEW | {"budget": {"full_runs": 3}})
    command = plain(tmp_path, before='if trial.number == 5: Path("go").exists() or os.kill(os.getppid(), 15)')
    work(job, *command, folder=tmp_path / "first")
    begun = lines(tmp_path / "stages")
    paused = {str(one["number"]) for one in trials(door, job) if one["state"] == "paused"}
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "go").touch()
    database = Database(sqlite_url)
    with database.write() as tx:  # a while later
        tx.execute(update(LoopRow).values(alive_until=clock(tx) - timedelta(seconds=1)))
    database.dispose()
    work(job, *command, folder=tmp_path / "second")
    add_up(door, job)
    again = said(door, job, "trial-began-again")
    assert all("no loop that lives has its checkpoint" in line for line in again)
    resumed = paused & {line[0] for line in lines(tmp_path / "stages")[len(begun) :]}
    assert len(again) == len(resumed) > 0


def test_sigterm_pauses_the_trial_at_its_next_report_and_the_next_lrtune_run_goes_on_from_there(
    door: httpx.Client, tmp_path: Path
) -> None:
    job = submit(door, **FEW)
    command = plain(tmp_path, during='(step != 7) or write("up"), step != 7 or wait_for("go")')
    with started(job, "--", *command) as running:
        waits((tmp_path / "up").exists)
        running.send_signal(signal.SIGTERM)
        heard(running, "it was asked to stop; the command has 30 s to end")
        (tmp_path / "go").touch()
        assert running.wait(60) == 0
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert (trial["state"], trial["start"], trial["attempt"]) == ("waiting", 7, 0)
    assert [one["step"] for one in trial["reports"]] == list(range(1, 8))
    assert "trial 0 waits after step 7 of 20: its process was asked to end" in said(door, job, "trial-released")
    work(job, *command)
    add_up(door, job)
    assert [line[1] for line in lines(tmp_path / "steps") if line[0] == "0"] == [str(at) for at in range(1, 21)]


def test_sigterm_gives_back_what_is_trained_whole(door: httpx.Client, tmp_path: Path) -> None:
    job = submit(door, **FEW)
    command = plain(tmp_path, during='(step != 7) or write("up"), step != 7 or wait_for("go")')
    with started(job, "--whole", "--", *command) as running:
        waits((tmp_path / "up").exists)
        running.send_signal(signal.SIGTERM)
        heard(running, "it was asked to stop")
        (tmp_path / "go").touch()
        assert running.wait(60) == 0
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert (trial["state"], trial["start"], trial["step"]) == ("waiting", 0, 0)


HOLD = """
    for nth in (2, 6, 10):
        if len(Path("stages").read_text().splitlines()) >= nth and not Path(f"held-{nth}").exists():
            write(f"held-{nth}", os.getppid())
            wait_for("never")
"""


def test_several_lrtune_runs_are_killed_on_one_job_and_nothing_is_lost_or_trained_twice(
    door: httpx.Client, tmp_path: Path
) -> None:
    job = submit(door, **STAGED)
    command = plain(tmp_path, during=HOLD.strip())
    running = [started(job, "--", *command) for _ in range(3)]
    for nth in (2, 6, 10):
        waits(lambda file=tmp_path / f"held-{nth}": lines(file))
        for (held,) in lines(tmp_path / f"held-{nth}"):
            (victim,) = [one for one in running if str(one.pid) == held]
            victim.kill()
            victim.communicate()
            running[running.index(victim)] = started(job, "--", *command)
    assert [(one.communicate()[1][-2000:], one.returncode)[one.returncode == 0] for one in running] == [0, 0, 0]
    add_up(door, job)
    assert sum("its `lrtune run` was killed" in line for line in said(door, job, "trial-released")) >= 3
    for number in {line[0] for line in lines(tmp_path / "steps")}:
        trained = [line for line in lines(tmp_path / "steps") if line[0] == number]
        one_after_another = [pid for pid, _ in itertools.groupby(line[3] for line in trained)]
        starts = [line[2] for line in lines(tmp_path / "stages") if line[0] == number]
        assert len(one_after_another) <= len(starts), "no two trained it at once"
        reports = door.get(f"/v1/jobs/{job}/trials/{number}").json()["reports"]
        assert [one["step"] for one in reports] == sorted({one["step"] for one in reports})


def test_a_loop_that_resumes_from_another_step_hears_so(door: httpx.Client, tmp_path: Path, forked: list[str]) -> None:
    job = submit(door, **FEW | {"horizon": {"steps": 40}})
    command = plain(tmp_path, forked, before="trial.report(1, val_loss=0.5) if trial.start > 1 else None")
    work(job, *command, tries=1)
    reasons = [one["reason"] for one in trials(door, job) if one["state"] == "failed"]
    assert reasons
    assert all("found 1; this trial goes on from step" in reason for reason in reasons)


def test_a_command_that_goes_on_after_its_trials_end_has_a_grace_and_is_ended(
    door: httpx.Client, tmp_path: Path
) -> None:
    job = submit(door, budget={"trials": 1}, horizon={"steps": 20})
    command = plain(tmp_path, after='trial.finish(); wait_for("never")')
    runner = work(job, *command, lease_seconds=5.0, grace=0.1)
    assert sum(runner.exits.values()) == 1
    assert set(runner.exits) <= {143, -9}
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"


def test_what_outlives_a_killed_command_does_not_give_its_trial_back(door: httpx.Client, tmp_path: Path) -> None:
    job = submit(door, budget={"trials": 1}, horizon={"steps": 20})
    accident = (
        'if step == 3 and not Path("died").exists(): Path("died").touch(); os.kill(os.getppid(), 9); wait_for("no")'
    )
    python, file = plain(tmp_path, during=accident)
    runner = work(job, "sh", "-c", f"setsid {python} {file} & wait $!")
    assert runner.exits == {-9: 1, 0: 1}
    assert said(door, job, "trial-released") == []
    (died,) = said(door, job, "trial-noted")
    assert "the command was ended by SIGKILL" in died
    assert door.get(f"/v1/jobs/{job}/trials/0").json()["attempt"] == 1


def test_a_command_whose_job_is_cancelled_is_ended(door: httpx.Client, tmp_path: Path) -> None:
    job = submit(door, **STAGED)
    cancel = f"from lrtune.client import Client; Client().cancel({job!r}); wait_for('never')"
    runner = work(job, *plain(tmp_path, before=cancel), lease_seconds=5.0, grace=0.1)
    assert set(runner.exits) <= {143, -15, -9}
    assert door.get(f"/v1/jobs/{job}/trials/0").json()["state"] == "cancelled"


def test_a_stage_outlives_its_server(sqlite_url: str, tmp_path: Path, door: httpx.Client) -> None:
    with served(sqlite_url) as other:
        port = other.base_url.port or 0
        job = submit(other, **FEW | {"budget": {"full_runs": 1}})
        os.environ["LRTUNE_URL"] = str(other.base_url)
        command = plain(tmp_path, during='(step != 7) or write("up"), step != 7 or wait_for("go")')
        running = started(job, "--", *command)
        waits((tmp_path / "up").exists)
    (tmp_path / "go").touch()
    waits(lambda: lines(tmp_path / "steps")[-1][1] != "7")
    with served(sqlite_url, port=port), running:
        assert running.wait(60) == 0
    add_up(door, job)
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert (trial["attempt"], [one["step"] for one in trial["reports"]]) == (1, list(range(1, 21)))


def test_optimize_trains_in_stages(door: httpx.Client, tmp_path: Path) -> None:
    import torch

    stages = list[tuple[int, int]]()

    def objective(trial: LoopTrial) -> None:
        model = torch.nn.Linear(2, 1)
        optimizer = trial.optimizer(model.parameters())
        start = trial.restore(model=model, optimizer=optimizer)
        stages.append((start, trial.until))
        for step in range(start + 1, trial.until + 1):
            off = abs(trial.configuration.learning_rate - 0.003)
            if trial.report(step, val_loss=1.0 / step + off):
                return

    job = submit(door, **STAGED)
    with Client() as client:
        best = client.optimize(job, objective, checkpoints=tmp_path / "kept")
    assert best.steps == 20
    assert len([start for start, _ in stages if start]) > 1
    add_up(door, job)


def test_a_loop_whose_job_is_paused_keeps_its_trial_and_goes_on_from_there(door: httpx.Client, tmp_path: Path) -> None:
    import torch

    job = submit(door, **STAGED)
    with Client() as client:
        for trial in client.get(job).trials(checkpoints=tmp_path / "kept"):
            model = torch.nn.Linear(2, 1)
            trial.restore(model=model, optimizer=trial.optimizer(model.parameters()))
            assert not trial.report(1, val_loss=1.0)
            client.pause(job)
            assert trial.report(2, val_loss=0.9)
            break
        waiting = client.trial(job, trial.number)
        assert (waiting.state, waiting.step) == ("waiting", 2)
        assert "the job is paused" in waiting.reason
        client.resume(job)
        with next(client.get(job).trials(checkpoints=tmp_path / "kept")) as again:
            assert (again.number, again.start) == (trial.number, 2)


def test_a_loop_that_keeps_nothing_hears_so_at_its_first_report(door: httpx.Client, tmp_path: Path) -> None:
    """Not at the end of its first stage, when it has trained the baseline to its end already."""
    job = submit(door, **STAGED)
    restore = r"nothing to keep is known: call `start = trial\.restore.* or tune without checkpoints: leave the folder"
    with Client() as client:
        turns = client.get(job).trials(checkpoints=tmp_path / "kept")
        trial = next(turns)
        with pytest.raises(errors.Invalid, match=restore):
            trial.report(1, val_loss=1.0)
        assert not client.trial(job, 0).reports
        trial.give_back()


BEST_AS_IT_IS = (
    "best.json: its peak is that of a run of 40 steps, and stays it; `lrtune best JOB --steps 90 --json` writes the "
    "one that is expected to be best over 90"
)


def test_the_real_run_takes_an_answer_by_name_or_from_a_file_over_any_number_of_steps_and_fills_a_board(
    door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = submit(door, schedules=["cosine"], name="my net")
    with Client() as client:
        for trial in client.get(job).trials():
            trial.learning_rate()
            trial.report(40, val_loss=1.0 - 0.1 * trial.number)
        best = client.best(job)
        rates, carried = list(client.rates(job, best.trial)), client.best_at(job, 90)
    (tmp_path / "best.json").write_text(best.model_dump_json())
    monkeypatch.setenv("LRTUNE_TENSORBOARD", str(tmp_path / "board"))
    (tmp_path / "longer.json").write_text(carried.model_dump_json())
    own, moved, factor = best.configuration.learning_rate, carried.configuration.learning_rate, best.schedule.over(90)
    assert moved < own
    for named, peak in ((job, moved), ("my net", moved), ("best.json", own), ("longer.json", moved)):
        monkeypatch.setenv("LRTUNE_JOB", named)
        if named != "longer.json":
            assert [script.trial().learning_rate(step) for step in range(40)] == rates
        longer = script.trial(steps=90)
        assert [longer.learning_rate(step) for step in range(90)] == [peak * factor(step) for step in range(90)]
        assert (longer.metric, longer.number) == ("val_loss", best.trial)
        warned = [one.message for one in caplog.records if one.levelname == "WARNING"]
        assert warned == ([] if peak == moved and named != "longer.json" else [BEST_AS_IT_IS])
    assert script.trial().steps == 90, "a file that is carried over is of a run of so many steps"
    for bad in (0, -3, 2.5, "many"):
        with pytest.raises(errors.Invalid, match=r"steps: found .*; accepted is a whole number from 1 on"):
            script.trial(steps=bad)  # type: ignore[arg-type]
    with longer as entered:
        assert entered is longer
    assert not any(longer.report(step, val_loss=1.0 / step, accuracy=0.5) for step in (30, 60, 90))
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    shown: Any = {name: [(one.step, one.value) for one in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert shown["accuracy"] == [(30, 0.5), (60, 0.5), (90, 0.5)]
    assert shown["val_loss"] == [(step, pytest.approx(1.0 / step)) for step in (30, 60, 90)]
    assert shown["learning_rate"] == [(step, pytest.approx(longer.learning_rate(step - 1))) for step in (30, 60, 90)]
