"""States where there is no room for them: a disk that is full or read-only, a budget that is used up."""

import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from lrtune.wire.job import TaskSpec
from lrtune.wire.results import TrialState
from tests.test_states import GIB, Lab, same
from tests.test_trainer import Line, trial
from worker.states import Store
from worker.tasks import prepare


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_a_state_directory_that_cannot_be_written_costs_the_states_and_nothing_else(tmp_path: Path):
    (tmp_path / "file").write_text("not a directory")
    lab, task, asked = Lab(tmp_path / "file"), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    ((kind, message),) = lab.said
    assert (kind, "could not be saved" in message) == ("state-not-saved", True)


@contextmanager
def no_room_for_files():
    """The system refuses every file above a kilobyte, as it does when the disk is full."""
    was, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, was[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def no_room_when_synced():
    """The system took a file, and finds no room for it when it is to be on the disk."""

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.states.os.fsync", full)
        yield


@pytest.mark.parametrize(
    ("full", "words"),
    [(no_room_for_files, "File too large"), (no_room_when_synced, "No space left on device")],
    ids=["writing", "syncing"],
)
def test_a_full_disk_costs_the_states_and_leaves_no_half_written_ones(full, words: str, tmp_path: Path):
    lab, task, asked = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    with full():
        assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    assert [kind for kind, _ in lab.said] == ["state-not-saved"]
    assert words in lab.said[0][1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_model_that_keeps_more_than_tensors_is_trained_without_states(tmp_path: Path):
    class Odd(torch.nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    class Keeping(Line):
        def model(self):
            super().model()
            return Odd(1, 1)

    lab = Lab(tmp_path)
    assert lab.train(Keeping(), trial(horizon=40))[0].state is TrialState.COMPLETE
    assert [kind for kind, _ in lab.said] == ["state-not-saved"]


def test_a_thousand_trials_keep_to_the_budget_and_the_leaders_and_trunks_outlive_the_rest(tmp_path: Path):
    from worker.snapshot import Snapshot

    budget, most = 1_000_000, 0
    store = Store(str(tmp_path), budget=budget)
    tensors = {"model/weight": torch.zeros(1000)}
    random = np.random.default_rng(0)
    for number in range(1000):
        kind = ("trunk", "end", "end")[number % 3]
        state = Snapshot(tensors, {"step": number, "trained": [], "reports": []})
        score = -1.0 if number == 1 else float(random.random())
        store.write(f"{number % 7:064x}", f"{number:064x}", kind, score, state)
        most = max(
            most, sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) if number % 50 == 0 else 0
        )
    left = [path.name for path in tmp_path.rglob("*.safetensors")]
    assert most <= budget
    assert any(f"{1:064x}_1_end_-1_" in name for name in left), "the best of all went before others"


def test_a_state_of_which_room_was_made_before_it_was_safe_is_no_failure(tmp_path: Path):
    from worker.snapshot import Snapshot

    store = Store(str(tmp_path), budget=GIB)
    state = Snapshot({"model/weight": torch.zeros(10)}, {"step": 1, "trained": [], "reports": []})
    entry = store.write("0" * 64, "1" * 64, "running", None, state)
    store.drop(entry)
    store.secure([entry])
    assert store.entries("0" * 64) == {}


def test_a_state_larger_than_the_budget_is_not_written(tmp_path: Path):
    lab, task = Lab(tmp_path, budget=1000), prepare(TaskSpec(name="digits"), Path())
    assert lab.train(task, trial(horizon=40))[0].state is TrialState.COMPLETE
    assert "larger than LRTUNE_STATE_BYTES, which is 1,000" in lab.said[0][1]
