"""A run over several devices in pieces: bit for bit the one in one piece, shared, taken up after a death."""

import dataclasses
import multiprocessing
import os
import signal
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import torch

from lrtune.errors import TaskError
from lrtune.store import Database, events, jobs, leases, trials
from lrtune.task import Task
from lrtune.wire.job import AdmittedJob, TaskSpec, Training
from lrtune.wire.results import Event, Job, JobState, Report, Trial, TrialState
from tests import processes
from tests.devices import Lies, Noisy, Raises, Unready
from tests.serving import Done
from tests.test_states import Lab, same, unmarked
from tests.test_trainer import CPU, LOSS, Seen, trial
from worker import cache_key, parallel
from worker.checkpoint_cache import Start
from worker.loop import Worker
from worker.parallel import Died, Team
from worker.settings import Settings
from worker.trainer import Interrupted, follow, train

TWO = Training(devices=2)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Room(Lab):
    """Trains trials over several devices."""

    def together(self, task: Task, asked: Trial, training: Training = TWO, *, shares: bool = True):
        """Outcome, reports and weights, as `Lab.train` gives them."""
        seen, reports = Seen(task), list[Report]()
        with Team(training.devices, CPU, partial(follow, task, asked, training)) as member:
            cache = self.cache(task, asked, training=training) if shares else None
            outcome = train(
                seen, asked, metric=LOSS, device=CPU, on_report=lambda report: reports.append(report),
                should_stop=lambda: None, training=training, member=member, cache=cache,
            )  # fmt: skip
            if cache:
                cache.close()
        model = seen.models[-1]
        return outcome, reports, [one.detach().clone() for one in (*model.parameters(), *model.buffers())]


def until(asked: Trial, step: int) -> Trial:
    return asked.model_copy(update={"until": step})


@pytest.mark.parametrize(
    ("optimizer", "training"),
    [
        ("adamw", {"devices": 2}),
        ("sgd", {"devices": 2, "accumulate": 2, "ema": 0.9}),
        ("muon", {"devices": 3, "precision": "bfloat16"}),
    ],
)
def test_a_run_over_several_devices_in_stages_equals_the_run_in_one_piece(
    optimizer: str, training: dict, tmp_path: Path
):
    room, how = Room(tmp_path), Training.model_validate(training)
    asked = trial(horizon=40, optimizer={"name": optimizer}, warmup=0.1)
    alone = room.together(Noisy(), asked, how, shares=False)
    for step in (7, 22):
        room.together(Noisy(), until(asked, step), how)
    assert same(room.together(Noisy(), asked, how), alone)
    assert room.starts == [Start(7, 0, ()), Start(22, 0, ())]
    assert room.said == []


def test_a_beginning_over_several_devices_is_shared_by_two_schedules_and_with_no_other_number_of_them(tmp_path: Path):
    room, flat, falls = Room(tmp_path), trial(horizon=40, schedule="constant"), trial(horizon=40, schedule="wsd")
    falls = falls.model_copy(update={"number": 4})
    room.together(Noisy(), until(flat, 20))
    alone = room.together(Noisy(), falls, shares=False)
    assert same(room.together(Noisy(), falls), alone)
    assert room.starts == [Start(20, 20, ("job/3",))]
    room.train(Noisy(), falls)
    room.together(Noisy(), falls, Training(devices=3))
    assert len(room.starts) == 1, "over one device, or three, it is another run"


def test_a_state_that_does_not_fit_is_left_alone_by_all_devices(tmp_path: Path):
    room, asked = Room(tmp_path), trial(horizon=40)
    room.together(Lies(wide=4), until(asked, 22))
    alone = room.together(Lies(wide=5), asked, shares=False)
    assert same(room.together(Lies(wide=5), asked), alone)
    ((kind, words),) = room.said
    assert (kind, room.starts) == ("state-ignored", [])
    assert "does not fit this training" in words


def test_a_state_that_fits_the_first_device_alone_is_left_alone_too(tmp_path: Path):
    room, asked = Room(tmp_path), trial(horizon=40)
    room.together(Noisy(), until(asked, 22))
    (path,) = tmp_path.rglob("*_stage_*.safetensors")
    entry = next(iter(room.store.entries(path.parent.name).values()))
    state = room.store.read(entry)
    path.unlink()
    short = {name: tensor for name, tensor in state.tensors.items() if not name.startswith("random/1/")}
    room.store.write(path.parent.name, entry.key, "stage", 0.0, dataclasses.replace(state, tensors=short))
    alone = room.together(Noisy(), asked, shares=False)
    assert same(room.together(Noisy(), asked), alone)
    assert [(kind, "on another device" in words) for kind, words in room.said] == [("state-ignored", True)]


def test_the_number_of_devices_is_in_the_key():
    one, two = (
        cache_key.header(TaskSpec(name="digits"), "d", trial(), training, CPU, owner="job/3")
        for training in (Training(), TWO)
    )
    assert cache_key.Keys(one).namespace != cache_key.Keys(two).namespace


@pytest.mark.parametrize(
    ("exits", "code"),
    [(True, 3), (False, 1)],
)
def test_nobody_waits_for_a_device_whose_process_does_not_come(exits: bool, code: int):
    words = rf"the process on device 2 of 2 died \(exit code {code}\) before it was ready"
    with pytest.raises(Died, match=words), Team(2, CPU, Unready(exits)):
        pass


def test_a_run_that_is_given_back_waits_for_no_device_and_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    room, asked = Room(tmp_path), trial(horizon=40)
    alone = room.together(Noisy(), asked, shares=False)
    steps, cache = iter(range(40)), room.cache(Noisy(), asked, training=TWO)
    monkeypatch.setattr(parallel, "PATIENCE", 600.0)
    with pytest.raises(Interrupted), closing(cache), Team(2, CPU, partial(follow, Noisy(), asked, TWO)) as member:
        train(
            Noisy(), asked, metric=LOSS, device=CPU, on_report=lambda _: None, training=TWO, member=member,
            should_stop=lambda: "asked to stop" if next(steps) == 13 else None, cache=cache,
        )  # fmt: skip
    assert multiprocessing.active_children() == []
    assert same(room.together(Noisy(), asked), alone)
    assert room.starts == [Start(12, 0, ())]


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_what_goes_wrong_on_the_first_device_alone_is_its_own_error(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parallel, "PATIENCE", 600.0)
    monkeypatch.setattr(parallel, "GRACE", 0.1)
    task = Raises(error)
    with pytest.raises(error, match="on the first device"), Team(2, CPU, partial(follow, task, trial(), TWO)) as member:
        train(
            task, trial(), metric=LOSS, device=CPU, on_report=lambda _: None, training=TWO, member=member,
            should_stop=lambda: None,
        )  # fmt: skip


def test_the_key_has_the_names_of_all_gpus_and_a_host_with_too_few_of_them_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: ["H100", "H100", "A100"][device.index])
    first, second = torch.device("cuda"), torch.device("cuda:1")
    assert [cache_key.place(one, 2)["name"] for one in (first, second)] == ["H100, H100", "H100, A100"]
    assert cache_key.place(first)["name"] == "H100"
    with pytest.raises(
        TaskError, match=r"training.devices: found 3; this host has 3, of which this worker's is number 1"
    ):
        cache_key.place(second, 3)


SPEC = {
    "task": "tests.devices:Noisy",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "horizon": {"steps": 40},
    "schedules": ["cosine", "constant", "wsd"],
    "search": {"pruner": "none"},
    "budget": {"full_runs": 3},
    "confirm": {"top": 0},
    "training": {"devices": 2},
}


BARE = {"full_runs": 1.1}
TASKS = "tests.devices:Noisy,tests.devices:Mortal"


def submitted(url: str, **changes: object) -> str:
    """A job over two devices waits on this database."""
    database = Database(url)
    with database.write() as tx:
        made, _ = jobs.create(tx, AdmittedJob.model_validate(SPEC | changes))
    database.dispose()
    return made.id


def work(url: str) -> None:
    """A worker does all there is to do."""
    Worker(Settings(database_url=url, device="cpu", tasks=TASKS), Done()).work()


def recorded(url: str, job: str) -> tuple[Job, list[Trial], list[Event]]:
    """The job, its trials and its log."""
    database = Database(url)
    with database.read() as tx:
        found = jobs.get(tx, job), trials.history(tx, job), events.page(tx, job, after=0, limit=1000).items
    database.dispose()
    return found


def test_a_search_over_several_devices_trains_in_stages_and_pays_for_no_step_twice(sqlite_url: str, tmp_path: Path):
    job = submitted(sqlite_url)
    work(sqlite_url)
    found, history, _ = recorded(sqlite_url, job)
    assert (found.state, found.reason) == (JobState.SUCCEEDED, "")
    assert any(len(one.stages) > 1 for one in history)
    assert {one.state for one in history} == {TrialState.COMPLETE, TrialState.STOPPED}
    for one in history:
        assert one.cost + one.reused == one.step == one.stages[-1].step
        assert sum(stage.cost for stage in one.stages) == one.cost
    in_stages = max((one for one in history if one.state is TrialState.COMPLETE), key=lambda one: len(one.stages))
    alone = Room(tmp_path / "alone").together(Noisy(), until(in_stages, in_stages.horizon), shares=False)
    assert unmarked(in_stages.reports) == alone[1]


def mortal(folder: Path, rank: int) -> dict[str, object]:
    """A job of whose processes one is killed in its first whole run."""
    folder.mkdir()
    return {"task": {"name": "tests.devices:Mortal", "params": {"folder": str(folder), "rank": rank}}, "budget": BARE}


def taken_up(url: str, job: str) -> list[Event]:
    """Check that the trial of which a process was killed went on from its last state; what the log says of it."""
    found, history, log = recorded(url, job)
    assert (found.state, found.reason) == (JobState.SUCCEEDED, "")
    (hit,) = (one for one in history if any(stage.outcome == "lost" for stage in one.stages))
    assert [(stage.outcome, stage.start, stage.step, stage.cost) for stage in hit.stages] == [
        ("lost", 0, 24, 24),
        ("finished", 24, 40, 16),
    ]
    assert (hit.state, hit.cost, hit.reused) == (TrialState.COMPLETE, 40, 0)
    assert found.progress.full_runs == sum(one.cost for one in history) / 40
    return [line for line in log if line.trial == hit.number]


@pytest.mark.parametrize("training", [{"devices": 2}, {"devices": 2, "sharded": True}], ids=["copies", "shards"])
def test_a_trial_goes_on_from_its_last_state_when_the_process_of_another_device_is_killed(
    sqlite_url: str, tmp_path: Path, training: dict
):
    job = submitted(sqlite_url, **mortal(tmp_path / "notes", rank=1), training=training)
    work(sqlite_url)
    log = taken_up(sqlite_url, job)
    assert [line.message.split(": ", 1)[1] for line in log if line.kind == "trial-waiting"] == [
        "the process on device 2 of 2 died (SIGKILL)"
    ]
    alone = submitted(sqlite_url, budget=BARE, training=training)
    work(sqlite_url)
    assert [unmarked(one.reports) for one in recorded(sqlite_url, job)[1]] == [
        unmarked(one.reports) for one in recorded(sqlite_url, alone)[1]
    ]


def test_when_the_worker_is_killed_its_processes_end_and_another_worker_goes_on(sqlite_url: str, tmp_path: Path):
    notes, settings = tmp_path / "notes", {"LRTUNE_DATABASE_URL": sqlite_url, "LRTUNE_TASKS": TASKS}
    job = submitted(sqlite_url, **mortal(notes, rank=0))
    worker = processes.start("worker", environment=settings, log=tmp_path / "worker.log")
    worker.join(120)
    assert worker.exitcode == -signal.SIGKILL, (tmp_path / "worker.log").read_text()
    for other in notes.glob("1-*"):
        gone(int(other.name.removeprefix("1-")))
    database = Database(sqlite_url)
    with database.write() as tx:
        leases.requeue(tx, now=datetime.now(UTC) + timedelta(hours=1))
    database.dispose()
    work(sqlite_url)
    taken_up(sqlite_url, job)


def gone(process: int) -> None:
    """Wait until a process has ended."""
    end = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(process, 0)
        pytest.fail(f"process {process} has outlived its worker")
