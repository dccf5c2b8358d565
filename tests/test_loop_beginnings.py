"""Trials of a deterministic loop begin where another has trained the same: what it saves, whom, and how long."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from lrtune import errors
from lrtune.adapters.folder import Folder
from lrtune.cli import commands
from lrtune.client import Client
from lrtune.loop import LoopTrial
from lrtune.search.curve.beginnings import shared
from lrtune.search.engine.types import Pool, Run
from lrtune.store import Database, beginnings, checkpoints, lookup
from lrtune.store.beginnings import KEPT
from lrtune.wire.external import Hold
from tests import offline
from tests.external import pass_time, submit, take, tell
from tests.serving import KEY, served
from tests.test_loop_stages import events, train

WHOLE = {"checkpoints": "none", "deterministic": False}
SAME = {"checkpoints": "own", "host": "one", "deterministic": True}
RUN = {"optimizer": "adamw", "learning_rate": 1e-3, "warmup": 0.0, "floor": 0.0}
WSD = {"family": "wsd", "decay": 0.5, "shape": "linear"}
JOB: dict[str, Any] = {
    "horizon": {"steps": 40},
    "budget": {"full_runs": 20},
    "baseline": RUN | {"schedule": "constant"},
    "try": [RUN | {"schedule": WSD}, RUN | {"schedule": "linear"}],
}


@pytest.fixture
def door(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


@pytest.fixture
def client(door: httpx.Client) -> Iterator[Client]:
    with Client(str(door.base_url), KEY) as client:
        yield client


def begun(door: httpx.Client, at: int = 10, **hold: Any) -> tuple[str, dict[str, Any]]:
    """A job whose trial 0, at a constant rate, has a checkpoint after so many steps, and is being trained on."""
    job, hold = submit(door, **JOB), SAME | {"worker": "first"} | hold
    assert train(door, job, take(door, job, **hold), until=at) == "waiting"
    held = take(door, job, **hold)
    assert (held["trial"]["number"], held["start"], held["checkpoint"]) == (0, at, f"0@{at}")
    return job, held


def trial(door: httpx.Client, job: str, number: int) -> dict[str, Any]:
    found: dict[str, Any] = door.get(f"/v1/jobs/{job}/trials/{number}").json()
    return found


def test_a_trial_begins_where_another_has_trained_the_same_and_pays_for_the_rest(door: httpx.Client) -> None:
    job, first = begun(door)
    held = take(door, job, **SAME, worker="second")
    assert (held["trial"]["number"], held["start"], held["checkpoint"]) == (1, 10, "0@10")
    assert [(one["step"], one["reused"]) for one in held["trial"]["reports"]] == [(at, True) for at in range(2, 11, 2)]
    assert [one["metrics"] for one in held["trial"]["reports"]] == [
        one["metrics"] for one in trial(door, job, 0)["reports"]
    ]
    other = take(door, job, **SAME, worker="third")
    assert (other["trial"]["number"], other["start"], other["checkpoint"]) == (2, 0, None), (
        "a linear decay is no other's"
    )
    assert train(door, job, held) == "complete"
    found = trial(door, job, 1)
    assert (found["step"], found["reused"]) == (40, 10)
    assert [(one["start"], one["step"], one["cost"]) for one in found["stages"]] == [(10, 40, 30)]
    (said,) = [
        one["message"]
        for one in door.get(f"/v1/jobs/{job}/events", params={"limit": 1000}).json()["items"]
        if one["kind"] == "trial-taken-up"
    ]
    assert said == "trial 1 starts after step 10 of 40, 10 of them trained by trial 0"
    assert train(door, job, first) == "complete"
    assert door.get(f"/v1/jobs/{job}").json()["progress"]["full_runs"] == pytest.approx(2 - 10 / 40)


@pytest.mark.parametrize(
    "hold",
    [{"deterministic": False}, {"host": "two"}, {"checkpoints": "shared", "host": "two"}, WHOLE],
    ids=["not declared", "another host", "shared elsewhere", "whole"],
)
def test_nobody_else_is_given_the_checkpoint_of_another_trial_nor_counts_on_it(
    door: httpx.Client, database_url: str, hold: dict[str, Any]
) -> None:
    job, _ = begun(door)
    held = take(door, job, **SAME | hold, worker="second")
    assert (held["trial"]["number"], held["start"], held["checkpoint"]) == (1, 0, None)
    assert held["trial"]["reports"] == []
    assert not {"0@10"} & {*held["forget"]}
    database, asks = Database(database_url), Hold(worker="second", **SAME | hold)
    with database.write() as tx:
        seq = lookup.job(tx, job).seq
        mine, other = checkpoints.seen(tx, seq, Hold(worker="first", **SAME)), checkpoints.seen(tx, seq, asks)
        assert (beginnings.at_hand(tx, mine), beginnings.at_hand(tx, other)) == ({0: [10]}, {})
    database.dispose()


def test_what_a_loop_has_kept_that_is_not_deterministic_begins_no_other_trial(door: httpx.Client) -> None:
    job, _ = begun(door, deterministic=False)
    assert take(door, job, **SAME, worker="second")["start"] == 0


def test_a_shared_checkpoint_begins_a_trial_of_any_loop_that_shares(door: httpx.Client) -> None:
    job, _ = begun(door, checkpoints="shared")
    held = take(door, job, **SAME | {"checkpoints": "shared", "host": "two"}, worker="second")
    assert (held["start"], held["checkpoint"]) == (10, "0@10")


def test_to_be_deterministic_without_checkpoints_is_refused_in_words(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    answer = door.post(f"/v1/jobs/{job}/trials", json={"deterministic": True})
    assert answer.status_code == 422
    accepted = 'accepted with "own" or "shared" ones, as there is nothing to begin a trial with otherwise'
    assert answer.json()["errors"] == [
        {"pointer": "/deterministic", "detail": f'found true with "checkpoints": "none"; {accepted}'}
    ]


def test_a_trial_whose_checkpoint_is_gone_begins_at_its_first_step_and_pays(door: httpx.Client) -> None:
    job, _ = begun(door)
    held = take(door, job, **SAME, worker="second")
    late = tell(door, job, held, "reports", start=11, reports=[])
    assert (late.status_code, late.json()["errors"][0]["pointer"]) == (422, "/start")
    assert tell(door, job, held, "reports", start=0, reports=[]).status_code == 200
    assert tell(door, job, held, "reports", start=0, reports=[]).status_code == 200, "the answer may have been lost"
    assert (trial(door, job, 1)["reports"], trial(door, job, 1)["reused"]) == ([], 0)
    assert events(door, job)["trial-began-again"] == 1
    assert tell(door, job, held, "finish", state="waiting").status_code == 200
    again = take(door, job, **SAME, worker="second")
    assert (again["trial"]["number"], again["start"]) == (1, 0), "what is gone is not handed out again"
    assert train(door, job, again) == "complete"
    found = trial(door, job, 1)
    assert (found["step"], found["reused"]) == (40, 0)


def test_a_trial_that_ends_keeps_what_another_begins_with(door: httpx.Client, database_url: str) -> None:
    job, first = begun(door)
    take(door, job, **SAME, worker="second")
    assert tell(door, job, first, "finish", state="failed", reason="its disk is full").status_code == 200
    other = take(door, job, **SAME, worker="third")
    assert "0@10" not in other["forget"]
    assert "0@10" in other["needed"]
    pass_time(database_url, 1000)  # the second dies
    again = take(door, job, **SAME, worker="fourth")
    assert (again["trial"]["number"], again["start"], again["checkpoint"]) == (1, 10, "0@10")
    assert train(door, job, again) == "complete"
    assert "0@10" in take(door, job, **SAME, worker="fourth")["forget"], (
        "nobody wants to begin like a trial that failed"
    )


def test_a_job_that_is_cancelled_while_a_trial_begins_with_anothers_checkpoint_says_so(door: httpx.Client) -> None:
    job, first = begun(door)
    held = take(door, job, **SAME, worker="second")
    assert door.post(f"/v1/jobs/{job}/cancel").status_code == 202
    for one in (first, held):
        answer = tell(door, job, one, "reports", reports=[{"step": 12, "metrics": {"val_loss": 1.0}}])
        assert (answer.status_code, answer.json()["decision"], answer.json()["state"]) == (200, "stop", "cancelled")
    assert trial(door, job, 1)["step"] - trial(door, job, 1)["reused"] == 0


def test_a_loop_that_goes_no_further_gives_the_trial_back_under_the_name_it_was_given(door: httpx.Client) -> None:
    job, first = begun(door)
    held = take(door, job, **SAME, worker="second")
    said = {"state": "paused", "checkpoint": "0@10"}
    further = tell(door, job, held, "finish", **said, step=12)
    assert (further.status_code, further.json()["errors"][0]["pointer"]) == (422, "/checkpoint")
    answer = tell(door, job, held, "finish", **said, step=10)
    assert (answer.status_code, answer.json()["state"]) == (200, "waiting"), answer.text
    again = take(door, job, **SAME, worker="second")
    assert (again["trial"]["number"], again["start"], again["checkpoint"]) == (1, 10, "0@10")
    assert train(door, job, again) == "complete"
    assert train(door, job, first) == "complete"
    assert [trial(door, job, number)["reused"] for number in (0, 1)] == [0, 10]


def test_a_branch_that_is_paused_goes_on_from_its_own_checkpoint_and_lets_others_begin(door: httpx.Client) -> None:
    job, first = begun(door)
    held = take(door, job, **SAME, worker="second")
    assert train(door, job, held, until=16) == "waiting"
    assert train(door, job, first, until=12) == "waiting"
    mine = take(door, job, **SAME, worker="first")
    assert (mine["trial"]["number"], mine["start"], mine["checkpoint"]) == (0, 16, "1@16"), "the first is overtaken"
    assert train(door, job, mine) == "complete"
    again = take(door, job, **SAME, worker="second")
    assert (again["trial"]["number"], again["start"], again["checkpoint"]) == (1, 16, "1@16")
    assert train(door, job, again) == "complete"
    costs = [trial(door, job, number)["step"] - trial(door, job, number)["reused"] for number in (0, 1)]
    assert costs == [12 + 24, 6 + 24]


def test_a_search_shares_beginnings_within_its_budget_and_keeps_few_of_them(door: httpx.Client) -> None:
    """Every step that was trained is paid for, once."""
    space = {"optimizers": ["adamw"], "schedules": ["constant", "wsd"], "warmup": 0.0, "budget": {"full_runs": 4}}
    job, trained, there, began = submit(door, horizon={"steps": 40}, **space), 0, set[str](), 0
    while (answer := door.post(f"/v1/jobs/{job}/trials", json=SAME)).status_code == 200:
        held = answer.json()
        assert held["start"] == 0 or held["checkpoint"] in there
        began += held["start"] > 0 and not held["checkpoint"].startswith(f"{held['trial']['number']}@")
        there -= set(held["forget"])
        assert there == set(held["needed"])
        paused = [one for one in trials(door, job) if one["state"] in ("paused", "stopped") and one["until"]]
        assert len(there) <= len(paused) + KEPT + 2, "and the one in hand, and what it begins with"
        if train(door, job, held) == "paused":
            there.add(f"{held['trial']['number']}@{held['until']}")
        trained += trial(door, job, held["trial"]["number"])["step"] - held["start"]
    assert answer.status_code == 409, answer.text
    assert began
    cost = sum(one["step"] - one["reused"] for one in trials(door, job))
    assert cost == trained
    found = door.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "succeeded"
    assert found["progress"]["full_runs"] == pytest.approx(cost / 40)
    assert cost <= 4 * 40


def trials(door: httpx.Client, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = door.get(f"/v1/jobs/{job}/trials", params={"limit": 200}).json()["items"]
    return found


MADE = torch.Generator().manual_seed(3)
SET = TensorDataset(torch.randn(50, 4, generator=MADE), torch.randint(0, 3, (50,), generator=MADE))


def losses(trial: LoopTrial, *, leave: int | None = None) -> list[float]:
    """The loss of every step of a small net with dropout, from where its trial goes on."""
    torch.manual_seed(trial.seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))
    optimizer = trial.optimizer(model.parameters())
    batches, found = trial.batches(DataLoader(SET, batch_size=8, shuffle=True)), list[float]()
    start = trial.restore(model=model, optimizer=optimizer)
    scheduler = trial.scheduler(optimizer, step=start)
    for step, (inputs, labels) in enumerate(islice(batches, trial.until - start), start + 1):
        loss: Any = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad(), loss.backward(), optimizer.step(), scheduler.step()
        found.append(loss.item())
        if step == leave:
            trial.interrupt("the test wants a checkpoint here")
        if trial.report(step, val_loss=loss.item()):
            break
    return found


def test_a_trial_that_begins_at_anothers_checkpoint_trains_bit_for_bit_as_from_its_first_step(
    door: httpx.Client, client: Client, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    found, starts = dict[int, list[float]](), dict[int, int]()
    job = client.get(submit(door, **JOB | {"try": JOB["try"][:1], "budget": {"full_runs": 2}}))
    for held in job.trials(checkpoints=tmp_path, deterministic=True):
        starts.setdefault(held.number, held.start)
        found.setdefault(held.number, []).extend(losses(held, leave=None if held.start else 14))
    assert starts == {0: 0, 1: 14}
    configuration = client.trial(job.id, 1).configuration.model_dump()
    held = offline.held(configuration, 40)
    held.seed = job.spec.search.seed
    assert losses(held)[14:] == found[1]
    assert client.get(job.id).progress.full_runs == pytest.approx(2 - 14 / 40)


def test_a_folder_without_what_others_begin_with_costs_the_steps_and_says_so(
    door: httpx.Client, client: Client, tmp_path: Path
) -> None:
    job = client.get(submit(door, **JOB | {"try": JOB["try"][:1], "budget": {"full_runs": 2}}))
    for held in job.trials(checkpoints=tmp_path, deterministic=True):
        if held.number == 1:
            assert held.start == 14
            Folder(tmp_path / job.id).drop([str(held.checkpoint)])
        assert len(losses(held, leave=None if held.start else 14)) == (14 if held.number == 0 and not held.start else
                                                                      26 if held.number == 0 else 40)  # fmt: skip
    assert client.get(job.id).progress.full_runs == pytest.approx(2)
    assert events(door, job.id)["trial-began-again"] == 1


def test_to_be_deterministic_in_python_needs_a_folder(door: httpx.Client, client: Client) -> None:
    job = client.get(submit(door, **JOB))
    with pytest.raises(errors.Invalid, match=r"deterministic: found True without .* trials\(checkpoints=\"runs/\", "):
        job.trials(deterministic=True)
    with pytest.raises(errors.Invalid, match='deterministic: found true with "checkpoints": "none"'):
        client.take(job.id, deterministic=True)


def test_what_is_not_needed_makes_room_first_and_of_the_others_the_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    names = [folder.write(number, 1, {"weights": torch.zeros(100)}) for number in range(4)]
    folder.need([names[2], names[0]])
    size = (tmp_path / names[0]).stat().st_size
    for kept in ([0, 2, 3], [0, 2], [0]):
        Folder(tmp_path, room=int((len(kept) + 0.5) * size))._make_room(0)
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names[number] for number in kept)


def test_what_is_free_is_a_checkpoint_and_not_wherever_the_rate_stands_still() -> None:
    flat, falling = np.ones(64), np.r_[np.ones(32), np.linspace(1, 0, 32)]
    horizons, none = np.array([100, 100, 50]), np.zeros(3, dtype=np.int64)
    pool = Pool((0, 1, 2), horizons, np.array([flat, falling, flat]), np.zeros((3, 1)), free=none, every=none + 5)
    run = Run(0, 100, tuple(flat), (0.0,), reports=((90, 1.0),), state="paused", ends=(20, 70))
    assert list(shared(pool, [run], (none, [0]), everywhere=False)) == [70, 20, 0]
    assert list(shared(pool, [run], (none, [0]))) == [90, 50, 0]
    assert list(shared(pool, [replace(run, ends=())], (none, [0]), everywhere=False)) == [0, 0, 0]


def test_a_warm_up_is_free_to_its_end_and_one_that_ends_elsewhere_is_none_of_the_same() -> None:
    """At 64 points of 1000 steps a warm-up of 50 was seen as 39, and one of 4 as none at all."""
    rise, none = np.array([0.16, 0.48, 0.8]), np.zeros(3, dtype=np.int64)
    flat, falling = (np.r_[rise, rest] for rest in (np.ones(61), np.linspace(1, 0, 62)[1:]))
    pool = Pool((0, 1, 2), none + 1000, np.array([flat, falling, falling]), np.zeros((3, 1)), free=none, every=none + 5)
    run = Run(0, 1000, tuple(flat), (0.0,), reports=((500, 1.0),), state="paused", ends=(50, 500))
    rises = np.array([50, 50, 51])
    assert list(shared(pool, [run], (rises, [50]), everywhere=False)) == [500, 50, 0]
    assert list(shared(pool, [replace(run, ends=())], (rises, [50]))) == [500, 50, 0]
    begun = replace(run, reports=((40, 1.0),), ends=())
    assert list(shared(pool, [begun], (rises, [50]))) == [40, 0, 0], "which has not come to its end yet"


SEEN = """
import os, pathlib, sys, httpx
pathlib.Path("seen").write_text(pathlib.Path(os.environ["LRTUNE_TRIAL"]).read_text())
key = {"Authorization": "Bearer " + os.environ["LRTUNE_API_KEY"]}
httpx.post(f"{os.environ['LRTUNE_URL']}/v1/jobs/{sys.argv[1]}/cancel", headers=key, trust_env=False)
sys.exit(1)
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is the command that is tested
def test_lrtune_run_declares_it(door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LRTUNE_URL": str(door.base_url), "LRTUNE_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    job, _ = begun(door, checkpoints="shared")
    (tmp_path / "script.py").write_text(SEEN)
    command = [sys.executable, "script.py", job]
    refused = CliRunner().invoke(commands.app, ["run", job, "--deterministic", "--whole", "--", *command])
    assert (refused.exit_code, "found it with --whole; accepted is one of the two" in refused.output) == (2, True)
    CliRunner().invoke(commands.app, ["run", job, "--deterministic", "--shared", "--tries", "1", "--", *command])
    seen = json.loads((tmp_path / "seen").read_text())["handout"]
    assert (seen["trial"]["number"], seen["start"], seen["checkpoint"]) == (1, 10, "0@10")
