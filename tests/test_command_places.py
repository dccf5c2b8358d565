"""A command that is several processes, at one place of its worker or at two: as under torchrun, one trial, one end."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands import door as door
from tests.serving import Done
from worker import places
from worker.loop import Worker
from worker.parallel import Died
from worker.settings import Settings
from worker.teams import Here

RANKS = "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"
TRAINS = """
import os
import torch
import lrtune

torch.distributed.init_process_group("gloo")
trial = lrtune.trial()
start = trial.restore()
mean = torch.tensor(float(torch.distributed.get_rank()))
torch.distributed.all_reduce(mean)
for step in range(start + 1, trial.until + 1):
    if trial.report(step, val_loss=mean.item() + 10 * trial.learning_rate(step - 1)):
        break
with open(f"ranks-{os.environ['RANK']}", "w") as file:
    print(*(os.environ[name] for name in "RANKS".split(",")), file=file)
"""
FIRST = """
import os
import lrtune

with open(f"ranks-{os.environ['RANK']}", "w") as file:
    print(*(os.environ[name] for name in "RANKS".split(",")), file=file)
if os.environ["RANK"] == "0":
    lrtune.trial().finish(1.0)
"""
DIES = """
import os, sys, time
if os.environ["RANK"] == "1":
    print("no such layer", flush=True)
    sys.exit(3)
time.sleep(600)
"""

SAVES = """
import os, pathlib, signal, sys, time

def save(*_):
    while not os.path.exists("go"):
        time.sleep(0.01)
    pathlib.Path("saved").touch()
    sys.exit(0)

if os.environ["RANK"] == "0":
    signal.signal(signal.SIGTERM, save)
pathlib.Path("up-" + os.environ["RANK"]).touch()
time.sleep(600)
"""


class Two(Here):
    """Two places, both on this host; the second one is lost as often as `losses` says."""

    nodes = 2
    losses = 0

    def _elsewhere(self, asked: places.Asked, node: int) -> places.Place:
        self.losses -= 1
        return Gone() if self.losses >= 0 else places.Processes(asked, node)


class Gone:
    """A place that is no more."""

    def look(self) -> places.Look:
        raise Died("the process on device 2 of 2, on a host, died")

    def signal(self, number: int) -> None:
        """Nobody is there."""

    def end(self) -> list[tuple[int, str]]:
        return []


def written(folder: Path, script: str, **fields: int) -> Path:
    """A file of commands whose only task is this script."""
    (folder / "train.py").write_text(script.replace("RANKS", ",".join(RANKS)))
    lines = [
        "[pair]",
        f'command = [{json.dumps(sys.executable)}, "train.py"]',
        'metrics = { val_loss = "minimize" }',
        "steps = 10",
        *(f"{name} = {value}" for name, value in fields.items()),
    ]
    (folder / "commands.toml").write_text("\n".join(lines))
    return folder / "commands.toml"


def worked(door: httpx.Client, url: str, file: Path, teams: type[Here] = Here, *, losses: int = 0) -> dict[str, Any]:
    """The only trial of a job, once a worker has done all there is to do."""
    settings = Settings(database_url=url, device="cpu", commands=file)
    team = teams(settings)
    if isinstance(team, Two):
        team.losses = losses
    work = Worker(settings, Done(), team).work
    work()
    asked = {"task": "pair", "budget": {"trials": 1}, "confirm": {"top": 0}, "search": {"pruner": "none"}}
    job = door.post("/v1/jobs", json=asked).raise_for_status().json()["id"]
    Worker(settings, Done(), team).work()
    trial: dict[str, Any] = door.get(f"/v1/jobs/{job}/trials/0").raise_for_status().json()
    return trial


@pytest.mark.parametrize(
    ("script", "teams", "fields", "ranks"),
    [
        (FIRST, Here, {"processes": 2}, ["0 0 0 2 2", "1 1 0 2 2"]),
        (TRAINS, Two, {"nodes": 2}, ["0 0 0 2 1", "1 0 1 2 1"]),
    ],
    ids=["one place", "two places"],
)
def test_a_command_of_two_processes_trains_one_trial_together(
    door: httpx.Client,
    sqlite_url: str,
    tmp_path: Path,
    script: str,
    teams: type[Here],
    fields: dict[str, int],
    ranks: list[str],
) -> None:
    trial = worked(door, sqlite_url, written(tmp_path, script, **fields), teams)
    assert (trial["state"], trial["reason"]) == ("complete", "")
    assert trial["value"] == pytest.approx(1.0, abs=0.2), "what two ranks add up to"
    assert [(tmp_path / f"ranks-{rank}").read_text().strip() for rank in (0, 1)] == ranks


def test_where_one_process_fails_all_end_and_the_trial_says_which(
    door: httpx.Client, sqlite_url: str, tmp_path: Path
) -> None:
    trial = worked(door, sqlite_url, written(tmp_path, DIES, processes=2, tries=1))
    assert trial["state"] == "failed"
    said = "the command ended with exit code 3; the last it printed:\nprocess 1 of 2:\nno such layer"
    assert trial["reason"] == said


def test_who_is_asked_to_end_has_its_time_where_another_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "FAREWELL", 0.0)
    asked = places.Asked([sys.executable, "-c", SAVES], {}, tmp_path, {}, 1, 2, ("127.0.0.1", 1))
    began: list[places.Processes] = []
    begin = places.Processes
    monkeypatch.setattr(places, "Processes", lambda *given: began.append(begin(*given)) or began[0])
    with places.together(asked, Here(Settings(device="cpu"))._elsewhere) as run:
        while not all((tmp_path / f"up-{rank}").exists() for rank in (0, 1)):
            assert run.alive(group=True)
        run.signal(signal.SIGTERM)
        while began[0].look().codes[1] is None:
            assert run.alive(group=True)
        assert run.alive(group=True)
        assert run.alive(group=True)
        (tmp_path / "go").touch()
        while run.alive(group=True):
            pass
    assert (tmp_path / "saved").exists()


def test_where_a_place_is_lost_the_attempt_is_and_the_next_one_trains(
    door: httpx.Client, sqlite_url: str, tmp_path: Path
) -> None:
    trial = worked(door, sqlite_url, written(tmp_path, FIRST, nodes=2), Two, losses=1)
    assert [stage["outcome"] for stage in trial["stages"]] == ["lost", "finished"]


def test_a_worker_with_one_place_leaves_a_command_for_two_alone(
    door: httpx.Client, sqlite_url: str, tmp_path: Path
) -> None:
    Worker(Settings(database_url=sqlite_url, device="cpu", commands=written(tmp_path, TRAINS, nodes=2)), Done()).work()
    assert "pair" not in [one["name"] for one in door.get("/v1/tasks").json()["items"]]
