"""The tutorial's loop over trials, run as a user would run it, and what becomes of a trial however its loop is left."""

import difflib
import json
import math
import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune import errors
from lrtune.client import Client
from lrtune.loop import LoopTrial
from lrtune.wire.external import Batch, Sent
from tests import processes
from tests.serving import KEY, served
from tests.staged import range_test, stage

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs/examples"
TUTORIAL = (ROOT / "docs/tutorials/your-loop.md").read_text()
JOB: dict[str, Any] = {
    "task": "external",
    "metric": {"name": "loss", "goal": "minimize"},
    "horizon": {"steps": 40},
    "budget": {"trials": 1},
    "confirm": {"top": 0},
}


def environment(door: httpx.Client) -> dict[str, str]:
    own = {"LRTUNE_URL": str(door.base_url), "LRTUNE_API_KEY": KEY}
    return own | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def run(name: str, door: httpx.Client, folder: Path) -> str:
    """What an example prints, run in a folder of its own."""
    log = folder / f"{name}.log"
    script = processes.start(str(EXAMPLES / name), environment=environment(door), log=log, cwd=folder)
    script.join()
    printed = log.read_text()
    assert script.exitcode == 0, printed[-3000:]
    return printed


@pytest.fixture
def door(sqlite_url: str) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        yield client


@pytest.fixture
def client(door: httpx.Client) -> Iterator[Client]:
    with Client(str(door.base_url), KEY) as found:
        yield found


def test_a_loop_over_trials_is_as_the_tutorial_shows_and_finds_its_answer_in_stages(
    door: httpx.Client, tmp_path: Path
) -> None:
    plain, tuned = ((EXAMPLES / f"torch_{form}.py").read_text().splitlines() for form in ("plain", "loop"))
    diff = "\n".join(difflib.unified_diff(plain, tuned, "torch_plain.py", "torch_loop.py", lineterm="", n=1))
    assert f"```diff\n{diff}\n```" in TUTORIAL
    assert sum(line.startswith("+") for line in diff.splitlines()[2:]) <= 9
    spec = json.loads((EXAMPLES / "torch.json").read_text()) | {"budget": {"full_runs": 3}}
    (tmp_path / "torch.json").write_text(json.dumps(spec))
    printed = run("torch_loop.py", door, tmp_path)
    (job,) = door.get("/v1/jobs").json()["items"]
    trials = door.get(f"/v1/jobs/{job['id']}/trials").json()["items"]
    assert job["state"] == "succeeded", job["reason"]
    ended = {trial["state"] for trial in trials}
    assert {"complete", "stopped"} <= ended <= {"complete", "stopped", "diverged"}
    assert f"learning_rate={job['best']['configuration']['learning_rate']!r}" in printed
    assert [trial["state"] for trial in trials if trial["role"] == "range-test"] == ["complete"], "it ends early"
    assert not list((tmp_path / "checkpoints").rglob("*.pt")), "nothing is left behind"


def test_a_loop_of_jax_is_trained_in_stages(door: httpx.Client, tmp_path: Path) -> None:
    run("jax_loop.py", door, tmp_path)
    (job,) = door.get("/v1/jobs").json()["items"]
    assert job["state"] == "succeeded", job["reason"]
    events = door.get(f"/v1/jobs/{job['id']}/events", params={"limit": 1000}).json()["items"]
    assert "trial-resumed" in {event["kind"] for event in events}, "one went on from what was kept"
    best = door.get(f"/v1/jobs/{job['id']}/best").json()
    assert best["value"] < 1 < best["baseline"]["value"]


def test_a_loop_that_always_trains_the_jobs_steps_ends_the_runs_of_shorter_horizons_at_their_end(
    door: httpx.Client, client: Client
) -> None:
    """Each failed at the first report beyond its last step, and had cost a quarter of a full run."""
    ends = Counter[tuple[int, str]]()
    job = client.submit(JOB | {"horizon": {"steps": 200}, "horizons": [0.25], "budget": {"full_runs": 6}})
    for trial in job.trials():
        with trial:
            for step in range(10, 210, 10):
                if trial.report(step, loss=1.0 / step + abs(math.log10(trial.configuration.learning_rate) + 2.5)):
                    break
    for one in client.trials(job.id):
        ends[one.horizon, str(one.state)] += 1
    assert ends[50, "complete"] >= 3
    assert not any(state == "failed" for _, state in ends)


HANGS = """
import json, threading
from lrtune.client import Client
trials = Client().get("JOB").trials(lease_seconds=1.0)
trial = next(trials)
trial.report(20, loss=0.5)
print(json.dumps({"number": trial.number, "token": trial._held.token}), flush=True)
threading.Event().wait()
"""


def test_a_killed_process_loses_its_trial_and_its_late_report_is_refused(database_url: str) -> None:
    with served(database_url) as door, Client(str(door.base_url), KEY) as client:
        job = client.submit(JOB)
        script = HANGS.replace("JOB", job.id)
        command = [sys.executable, "-c", script]
        with subprocess.Popen(
            command, env=os.environ | environment(door), stdout=subprocess.PIPE, text=True
        ) as training:
            try:
                assert training.stdout is not None
                dead = json.loads(training.stdout.readline())
                assert not select.select([training.stdout], [], [], 2.5)[0], "longer than the lease"
                assert client.take(job.id) is None, "it lives, and its lease is renewed"
            finally:
                training.send_signal(signal.SIGKILL)
        while (heir := client.take(job.id)) is None:
            pass
        assert (heir.trial.number, heir.trial.attempt) == (dead["number"], 2)
        late = Batch(token=dead["token"], reports=[Sent(step=40, metrics={"loss": 0.1})])
        with pytest.raises(errors.LeaseLost, match="trains it now, as attempt 2; drop this run"):
            client.tell(job.id, dead["number"], late)


def test_leaving_the_with_ends_a_trial_as_it_was_left(client: Client) -> None:
    job = client.submit(JOB | {"budget": {"trials": 3}})
    trials = job.trials()
    with next(trials) as first:
        assert not first.report(40, loss=2.0)
    with pytest.raises(KeyError), next(trials):
        raise KeyError("colour")
    with next(trials) as third:
        assert third.report(1, loss=float("nan")), "it should stop"
        assert "loss became not finite at step 1" in third.reason
    found = [(trial.state, trial.value, trial.reason) for trial in client.trials(job.id)]
    assert found[:2] == [("complete", 2.0, ""), ("failed", None, "KeyError: 'colour'")]
    assert found[2][0] == "diverged"
    assert list(trials) == []


def test_a_trial_that_nobody_finishes_is_given_back(client: Client) -> None:
    job = client.submit(JOB)
    trials = job.trials()
    next(trials)
    trials.close()
    (trial,) = client.trials(job.id)
    assert (trial.state, trial.attempt) == ("waiting", 0)


def test_an_objective_answers_with_the_value(client: Client) -> None:
    def objective(trial: LoopTrial) -> float:
        return abs(trial.learning_rate(trial.steps // 4) - 0.01)

    best = client.optimize(JOB | {"budget": {"trials": 3}}, objective)
    assert best.value == pytest.approx(abs(best.configuration.learning_rates(40)[10] - 0.01))


def test_about_twenty_reports_are_sent_however_many_are_made(client: Client) -> None:
    job = client.submit(JOB | {"horizon": {"steps": 1000}})
    for trial in job.trials():
        for step in range(1, 1001):
            trial.report(step, train_loss=0.5)
            trial.report(step, loss=1.0 / step)
    sent = client.trial(job.id, 0).reports
    assert [report.step for report in sent] == list(range(50, 1001, 50))
    assert sent[0].metrics == {"train_loss": 0.5, "loss": 0.02}


def test_a_loop_follows_a_schedule_that_looks_at_the_loss_as_the_server_does(client: Client) -> None:
    plateau = {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}
    job = client.submit(JOB | {"schedules": [plateau], "budget": {"trials": 2}})
    for trial in job.trials():
        used = []
        for step in range(1, 41):
            used.append(trial.learning_rate(step - 1))
            if step % 4 == 0:
                trial.report(step, loss=1.0)
        trial.finish()
        assert used == list(client.rates(job.id, trial.number))
    assert used[-1] < 0.2 * max(used)


def test_the_scheduler_keeps_the_ratios_of_the_groups(client: Client) -> None:
    import torch

    job = client.submit(JOB)
    for trial in job.trials():
        groups = [{"params": [torch.zeros(1)], "lr": 1e-3}, {"params": [torch.zeros(1)], "lr": 1e-4}]
        optimizer = torch.optim.AdamW(groups)
        scheduler = trial.scheduler(optimizer)
        for step in range(3):
            rate = trial.learning_rate(step)
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate / 10])
            optimizer.step()
            scheduler.step()
        own = trial.optimizer([torch.zeros(1)])
        assert isinstance(own, torch.optim.AdamW)
        assert own.defaults["weight_decay"] == 0.01
        trial.finish(1.0)


@pytest.mark.parametrize(("first", "says"), [(6e-4, True), (1e-3, False)])
def test_a_baseline_whose_first_group_has_a_lower_rate_says_whose_rate_it_is(
    first: float, says: bool, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """`"baseline": {"learning_rate": 1e-3}` would train all of such a script at 1.67 times its rates."""
    import torch

    for trial in client.submit(JOB).trials():
        groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (first, 1e-3)]
        trial.scheduler(torch.optim.AdamW(groups, lr=1e-3))
        trial.report(40, loss=1.0)
    said = "are those of the first group, which this script gives 0.0006; the others keep their ratios"
    assert (said in caplog.text) == says


def test_a_loop_that_measures_something_else_hears_of_it(client: Client) -> None:
    job = client.submit(JOB)
    trials = job.trials()
    with pytest.raises(errors.Invalid, match="no report has loss"), next(trials) as trial:
        trial.report(40, accuracy=0.5)
    (found,) = client.trials(job.id)
    assert (found.state, "no report has loss" in found.reason) == ("failed", True)


@pytest.mark.parametrize("short", [False, True], ids=["a stage", "a range test"])
def test_a_report_beyond_a_stage_hears_where_to_report(short: bool, tmp_path: Path) -> None:
    trial = range_test(tmp_path, 5) if short else stage(tmp_path, 0, 5, None)
    trial.restore(draws=random.Random(1))
    assert not trial.report(4, val_loss=0.5)
    with pytest.raises(errors.Invalid, match=r"found 6; this stage ends at step 5: report there as well: `trial.due"):
        trial.report(6, val_loss=0.5)
