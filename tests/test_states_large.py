"""Large states: written beside the training, and kept where that costs less than to train them again."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lrtune.analysis.prefixes import Course
from lrtune.store import Database, events, jobs, states, trials
from lrtune.wire.job import AdmittedJob, TaskSpec
from tests.serving import Done
from tests.test_sharing import SPEC
from tests.test_states import GIB, Lab, same
from tests.test_states_counted import state
from tests.test_trainer import trial
from worker import checkpoint_cache
from worker import states as state_files
from worker.checkpoint_cache import CheckpointCache
from worker.loop import Worker
from worker.room import Entry
from worker.run import LiveRun
from worker.settings import Settings
from worker.states import Store
from worker.tasks import prepare

HERE, ELSEWHERE = "this-store", "another-store"


@pytest.fixture
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (state_files, checkpoint_cache):
        monkeypatch.setattr(module, "LARGE", 1)


@pytest.mark.usefixtures("_small_is_large")
def test_a_large_state_is_written_while_the_training_goes_on_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    lab, task, whole = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    write, keep, on, kept = Store.write, CheckpointCache.keep, threading.Event(), list[int]()

    def slowly(self: Store, *given: Any, **named: Any) -> Entry | None:
        assert on.wait(60), "the training waited for the disk"
        return write(self, *given, **named)

    def noticed(self: CheckpointCache, run: LiveRun, course: Course) -> None:
        kept.append(run.step)
        if len(kept) > 1:
            on.set()
        keep(self, run, course)

    monkeypatch.setattr(Store, "seconds", lambda *_: 0.0)
    monkeypatch.setattr(Store, "write", slowly)
    monkeypatch.setattr(CheckpointCache, "keep", noticed)
    lab.train(task, whole.model_copy(update={"until": 22}))
    assert same(lab.train(task, whole), lab.train(task, whole, shares=False))
    assert ([start.step for start in lab.starts], lab.said) == ([22], [])


@pytest.mark.parametrize(
    ("seconds", "crowded", "steps"), [(0.0, False, 20), (15.0, False, 16), (15.0, True, 20), (21.0, False, None)]
)
@pytest.mark.usefixtures("_small_is_large")
def test_a_large_state_is_kept_where_that_takes_less_than_to_train_again_what_no_other_has(
    seconds: float, crowded: bool, steps: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(CheckpointCache, "_step_seconds", lambda *_: 1.0)
    monkeypatch.setattr(Store, "seconds", lambda *_: seconds)
    write = Store.write

    def without_room(self: Store, space: str, key: str, kind: Any, *given: Any, **named: Any) -> Entry | None:
        return None if kind == "trunk" else write(self, space, key, kind, *given, **named)

    if crowded:
        monkeypatch.setattr(Store, "write", without_room)
    lab, task = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path())
    asked = trial(horizon=40, schedule={"family": "constant"})
    lab.train(task, asked.model_copy(update={"until": 20}))
    kept = [int(path.name.split("_")[1]) for path in tmp_path.rglob("*.safetensors")]
    assert (max(kept, default=None), lab.said) == (steps, [])


@pytest.mark.usefixtures("_small_is_large")
def test_a_job_whose_states_take_long_to_keep_says_so_once_and_its_stages_are_longer(
    sqlite_url: str, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    wire = {"horizon": {"steps": 40}, "budget": {"full_runs": 2}, "schedules": ["cosine"], "confirm": {"top": 0}}
    database, states_at = Database(sqlite_url), str(tmp_path / "kept")
    with database.write() as tx:
        made = jobs.create(tx, AdmittedJob.model_validate(SPEC.model_dump() | wire))[0].id
    Worker(Settings(database_url=sqlite_url, device="cpu", state_dir=states_at), Done()).work()
    with database.read() as tx:
        assert jobs.get(tx, made).state == "succeeded"
        log, history = events.page(tx, made, after=0, limit=1000).items, trials.history(tx, made)
        least = states.least_stage(tx, made)
    database.dispose()
    (said,) = [one for one in log if one.kind == "state-cost"]
    assert f"no stage is shorter than {least} steps from now on" in said.message
    assert least > 10, "keeping and deciding take a second, and a step a thousandth"
    later = [one for one in history if one.role == "search"]
    assert later
    assert {one.stages[0].until for one in later} <= {10, None}, "a quarter of a run"


def test_what_large_states_cost_is_measured_and_of_small_ones_nothing_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path), budget=GIB)
    small, large = state(1, 1000), state(2, state_files.LARGE)
    store.write("0" * 64, "1" * 64, "stage", None, small)
    assert store.seconds(state_files.LARGE) == 0.0
    written = store.write("0" * 64, "2" * 64, "stage", None, large)
    assert written is not None
    before = store.seconds(state_files.LARGE)
    store.secure([written])
    assert 0.0 < before < store.seconds(state_files.LARGE)
    assert store.seconds(1000) == 0.0
