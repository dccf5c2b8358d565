"""Workers on a Ray cluster of two nodes: as many as there is to train, also after a node has died."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from sqlalchemy.orm import Session

from lrtune.errors import Invalid
from lrtune.store import Database, events, jobs, trials, workers
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OVER, Best, Job, JobState, Trial
from tests.leasing import SPEC
from tests.serving import KEY, served
from tests.test_devices import SPEC as NOISY
from tests.test_states import unmarked
from worker.fleet import Fleet, Size

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]  # Ray's own warnings
SMALL = AdmittedJob.model_validate(
    SPEC.model_dump(mode="json") | {"budget": {"full_runs": 2.0}, "confirm": {"top": 1, "seeds": 1}}
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Any]]:
    """Two nodes with room for two workers each, and a head with none."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield [cluster, *made]
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def fleet(nodes: list[Any], sqlite_url: str, tmp_path: Path) -> Iterator[Fleet]:
    database = Database(sqlite_url)
    environment = {
        "LRTUNE_DATABASE_URL": sqlite_url,
        "LRTUNE_STATE_DIR": str(tmp_path / "states"),
        "LRTUNE_LEASE_SECONDS": "5",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    fleet = Fleet(database, Size(0, 4, gpus=0, cpus=1), environment, patience=0)
    yield fleet
    fleet.close(30)
    database.dispose()


def keep_until(fleet: Fleet, happened: Callable[[Session], bool]) -> None:
    while True:
        fleet.round()
        with fleet.database.read() as tx:
            if happened(tx):
                return
        ray.wait([member.work for member in fleet.members], timeout=0.5) if fleet.members else None


def submit(fleet: Fleet) -> str:
    with fleet.database.write() as tx:
        return jobs.create(tx, SMALL)[0].id


def answer(database: Database, job: str) -> Best:
    with database.read() as tx:
        return jobs.best(tx, job)


def test_a_fleet_grows_with_the_queue_to_its_limit_and_shrinks_to_nothing(fleet: Fleet) -> None:
    fleet.round()
    assert fleet.members == []
    submitted = [submit(fleet) for _ in range(5)]
    keep_until(fleet, lambda tx: len(workers.alive(tx)) == 4)
    assert len(fleet.members) == 4, "not five"
    with fleet.database.write() as tx:
        for job in submitted:
            jobs.cancel(tx, job)
    keep_until(fleet, lambda tx: not fleet.members and not workers.alive(tx))


def test_a_fleet_that_is_asked_to_stop_drains_its_workers_and_ends_well(fleet: Fleet, nodes: list[Any]) -> None:
    lrtune = [sys.executable, "-c", "from lrtune.cli.commands import app; app()"]
    asked = ["fleet", "--address", nodes[0].address, "--min", "1", "--max", "1", "--gpus-per-worker", "0"]
    command = subprocess.Popen([*lrtune, *asked], env=os.environ | fleet.environment)
    while not alive(fleet):
        assert command.poll() is None
        time.sleep(0.2)
    command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 0
    assert not alive(fleet)


def alive(fleet: Fleet) -> bool:
    with fleet.database.read() as tx:
        return bool(workers.alive(tx))


def test_a_node_that_dies_changes_no_answer(fleet: Fleet, nodes: list[Any], sqlite_url: str, tmp_path: Path) -> None:
    fleet.size = Size(0, 1, gpus=0, cpus=2)
    job = submit(fleet)
    keep_until(fleet, lambda tx: sum(jobs.get(tx, job).progress.trials.values()) > 2)
    cluster, *old = nodes
    for node in old:  # it trains on one of them
        cluster.add_node(num_cpus=2)
        cluster.remove_node(node, allow_graceful=False)
    keep_until(fleet, lambda tx: jobs.get(tx, job).state is JobState.SUCCEEDED)
    fleet.environment["LRTUNE_STATE_DIR"] = str(tmp_path / "others")  # nothing is known of the first one
    keep_until(fleet, lambda tx: not fleet.members)
    again = submit(fleet)
    keep_until(fleet, lambda tx: jobs.get(tx, again).state is JobState.SUCCEEDED)
    killed, whole = answer(fleet.database, job), answer(fleet.database, again)
    assert (killed.configuration, killed.value) == (whole.configuration, whole.value)


def asked(fleet: Fleet, **changes: object) -> Job:
    """A job over two devices, once it is over."""
    spec = AdmittedJob.model_validate(NOISY | {"budget": {"full_runs": 1.1}} | changes)
    with fleet.database.write() as tx:
        job = jobs.create(tx, spec)[0].id
    keep_until(fleet, lambda tx: jobs.get(tx, job).state in OVER)
    with fleet.database.read() as tx:
        return jobs.get(tx, job)


def over_two_nodes(fleet: Fleet, **changes: object) -> tuple[list[Trial], list[str]]:
    """The trials of a job over two devices, of a worker that has one on each of two nodes; and its log."""
    job = asked(fleet, **changes)
    with fleet.database.read() as tx:
        assert (job.state, job.reason) == (JobState.SUCCEEDED, "")
        said = [line.message for line in events.page(tx, job.id, after=0, limit=1000).items]
        return trials.history(tx, job.id), said


@pytest.fixture
def pair(fleet: Fleet, nodes: list[Any], tmp_path: Path) -> Fleet:
    """A fleet of one worker, whose two devices no single node has the room for."""
    fleet.size = Size(0, 1, gpus=0, cpus=2, devices=2)
    fleet.environment["LRTUNE_TASKS"] = (
        "tests.devices:Noisy,tests.devices:Mortal,tests.devices:Second,tests.devices:Away"
    )
    return fleet


@pytest.mark.parametrize(("rank", "sharded"), [(0, False), (1, False), (1, True)])
def test_a_trial_over_two_nodes_goes_on_from_its_state_when_a_member_is_killed(
    pair: Fleet, tmp_path: Path, rank: int, sharded: bool
) -> None:
    training = {"devices": 2, "sharded": sharded}
    notes = tmp_path / "notes"
    notes.mkdir()
    mortal = {"name": "tests.devices:Mortal", "params": {"folder": str(notes), "rank": rank}}
    killed, said = over_two_nodes(pair, task=mortal, training=training)
    (hit,) = (one for one in killed if any(stage.outcome == "lost" for stage in one.stages))
    assert [(stage.outcome, stage.start, stage.step) for stage in hit.stages] == [
        ("lost", 0, 24),
        ("finished", 24, 40),
    ]
    assert any("the process on device 2 of 2, on" in line for line in said) == (rank == 1)
    whole, _ = over_two_nodes(pair, training=training)
    assert [unmarked(one.reports) for one in killed] == [unmarked(one.reports) for one in whole]
    assert len({*notes.glob("1-*")}) > 1, "another process has taken its place"


def test_what_goes_wrong_on_another_node_is_the_trials_error_and_the_next_job_is_trained(
    pair: Fleet, tmp_path: Path
) -> None:
    away = asked(pair, task={"name": "tests.devices:Away", "params": {"folder": str(tmp_path)}})
    assert "no such data" in away.reason
    broken = asked(pair, task="tests.devices:Second")
    assert broken.state is JobState.FAILED
    assert "ValueError on device 2 of 2: on the second device (in loss)" in broken.reason
    wider = asked(pair, training={"devices": 3})
    assert "training.devices: found 3; this worker has 2 (--devices-per-worker)" in wider.reason
    assert asked(pair).state is JobState.SUCCEEDED


COMMAND = f"""
[pair]
command = [{json.dumps(sys.executable)}, "train.py"]
metrics = {{ val_loss = "minimize" }}
steps = 20
checkpoints = "shared"
nodes = 2
"""
SCRIPT = """
import os, signal, time
from pathlib import Path
import torch
import lrtune

torch.distributed.init_process_group("gloo")
rank, trial = torch.distributed.get_rank(), lrtune.trial()
torch.manual_seed(trial.seed)
model = torch.nn.Linear(8, 1)
optimizer = trial.optimizer(model.parameters())
start = trial.restore(model=model, optimizer=optimizer)
scheduler = trial.scheduler(optimizer, step=start)
with open(f"stages-{rank}", "a") as file:
    print(trial.number, start, *(os.environ[name] for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")), file=file)
for step in range(start + 1, trial.until + 1):
    loss = (model(torch.randn(16, 8)) - 1).square().mean()
    optimizer.zero_grad(), loss.backward()
    for one in model.parameters():
        torch.distributed.all_reduce(one.grad)
    optimizer.step(), scheduler.step()
    if rank == 1 and step == 10 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)  # what has started it there: all of that place is gone
        time.sleep(600)
    if trial.report(step, val_loss=loss.item()):
        break
"""


def test_a_command_over_two_nodes_trains_in_stages_and_goes_on_when_one_is_killed(
    pair: Fleet, sqlite_url: str, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "commands.toml").write_text(COMMAND)
    with served(sqlite_url) as client:
        there = {"LRTUNE_URL": str(client.base_url), "LRTUNE_API_KEY": KEY}
        pair.environment |= there | {"LRTUNE_COMMANDS": str(tmp_path / "commands.toml")}
        pair.size = Size(1, 1, gpus=0, cpus=2, devices=2)
        keep_until(pair, lambda tx: bool(workers.alive(tx)))
        asked = {"task": "pair", "schedules": ["cosine"], "budget": {"full_runs": 2.2}, "confirm": {"top": 0}}
        job = client.post("/v1/jobs", json=asked).raise_for_status().json()["id"]
        keep_until(pair, lambda tx: jobs.get(tx, job).state in OVER)
    with pair.database.read() as tx:
        found, history = jobs.get(tx, job), trials.history(tx, job)
    assert (found.state, found.reason) == (JobState.SUCCEEDED, "")
    outcomes = [stage.outcome for one in history for stage in one.stages]
    assert outcomes.count("lost") == 1
    assert outcomes.count("paused") > 1, "in stages"
    first, second = (
        [line.split() for line in (tmp_path / f"stages-{rank}").read_text().splitlines()] for rank in (0, 1)
    )
    assert [line[:2] for line in first] == [line[:2] for line in second]
    assert ({*(" ".join(line[2:]) for line in first)}, {*(" ".join(line[2:]) for line in second)}) == (
        {"0 0 2"},
        {"0 1 2"},
    )
    assert found.progress.full_runs == pytest.approx(sum(one.cost for one in history) / 20)


def test_devices_that_reserve_nothing_are_refused() -> None:
    with pytest.raises(Invalid, match="--devices-per-worker: found neither GPUs nor CPUs"):
        Size(0, 1, gpus=0, cpus=0, devices=2)
