"""Checkpoints of a loop of the user's own: a training that goes on is the one that would have gone on without."""

import os
import random
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrtune.adapters.checkpoints import Batches, put_back, refuse_what_keeps_nothing, state_of
from lrtune.adapters.folder import Broken, Folder
from lrtune.errors import LrtuneError
from lrtune.loop import LoopTrial
from lrtune.wire.results import Report
from tests.offline import ADAMW, handout
from tests.staged import Pausing, in_stages, stage

MADE = torch.Generator().manual_seed(3)
SET = TensorDataset(torch.randn(50, 4, generator=MADE), torch.randint(0, 3, (50,), generator=MADE))


class Training:
    """A small net with dropout, a momentum, a schedule, shuffled batches and some noise of everybody's."""

    def __init__(self, *, generator: bool = False, workers: int = 0) -> None:
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 40)
        own = torch.Generator().manual_seed(5) if generator else None
        loader = DataLoader(SET, batch_size=8, shuffle=True, generator=own, num_workers=workers)
        self.batches: Batches[Any] = Batches(loader)
        self.objects = {n: getattr(self, n) for n in ("model", "optimizer", "scheduler", "batches")}

    def losses(self, steps: int) -> list[float]:
        found = []
        for inputs, labels in islice(self.batches, steps):
            noise = 1e-3 * (random.random() + float(np.random.rand()))
            loss = nn.functional.cross_entropy(self.model(inputs), labels) + noise
            self.optimizer.zero_grad(), loss.backward(), self.optimizer.step(), self.scheduler.step()
            found.append(loss.item())
        return found


@pytest.mark.parametrize("setting", [{}, {"generator": True}, {"workers": 1}], ids=str)
@pytest.mark.parametrize("at", [1, 7, 14, 23], ids=lambda at: f"after {at} steps")
def test_a_training_goes_on_bit_for_bit(tmp_path: Path, at: int, setting: dict[str, Any]) -> None:
    whole = Training(**setting).losses(30)
    first, folder = Training(**setting), Folder(tmp_path)
    begun = first.losses(at)
    name = folder.write(0, at, state_of(at, first.objects))
    second = Training(**setting)
    second.losses(3)  # whatever the process did before
    second = Training(**setting)
    assert put_back(folder.read(name), second.objects) == at
    assert begun + second.losses(30 - at) == whole


def test_what_was_damaged_lost_or_somebody_elses_is_said_and_never_used(tmp_path: Path) -> None:
    training, folder = Training(), Folder(tmp_path)
    name = folder.write(1, 4, state_of(4, training.objects))
    other = folder.write(2, 4, state_of(4, {"model": nn.Linear(2, 2)}))
    with pytest.raises(Broken, match="has model; `restore` was given batches, model, optimizer, scheduler"):
        put_back(folder.read(other), training.objects)
    with pytest.raises(Broken, match="model: the checkpoint does not fit"):
        put_back(folder.read(other), {"model": nn.Linear(3, 2)})
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(Broken, match="is not what was written"):
        folder.read(name)
    folder.drop([name])
    with pytest.raises(Broken, match="is not in"):
        folder.read(name)
    for evil in ("../../etc/passwd", "x", "trial-1-step-4-" + "0" * 32 + ".pt/../y", "a" * 5000):
        with pytest.raises(Broken, match="a checkpoint of this folder is called"):
            folder.read(evil)


def test_nothing_half_written_is_left_and_what_cannot_be_read_again_is_refused(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"odd": Odd()}

    with pytest.raises(Broken, match="trial 3 cannot be kept after step 8"):
        Folder(tmp_path).write(3, 8, state_of(8, {"odd": Odd()}))  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_make_room_for_the_newest(tmp_path: Path) -> None:
    training = Training()
    first = Folder(tmp_path).write(0, 1, state_of(1, training.objects))
    size = (tmp_path / first).stat().st_size
    folder = Folder(tmp_path, room=int(2.5 * size))
    names = [first, *(folder.write(trial, 1, state_of(1, training.objects)) for trial in (1, 2, 3))]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names[2:])
    with pytest.raises(Broken, match=r"it has \d+ bytes; the checkpoints in .* may take 10"):
        Folder(tmp_path, room=10).write(4, 1, state_of(1, training.objects))
    folder.drop(None)
    assert not tmp_path.exists()


def test_a_loader_whose_place_nobody_knows_is_refused_with_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"loader: found DataLoader; .*`trial.batches\(loader\)`"):
        refuse_what_keeps_nothing({"loader": DataLoader(SET)})
    with pytest.raises(ValueError, match="without batches"):
        next(Batches([]))
    with pytest.raises(ValueError, match="without batches"):
        list(Batches(iter([1, 2])))


MAKERS = {
    "torch": lambda: torch.Generator().manual_seed(7),
    "numpy": lambda: np.random.default_rng(7),
    "a Mersenne twister of NumPy's": lambda: np.random.Generator(np.random.MT19937(7)),
    "python": lambda: random.Random(7),
}
DRAW: dict[type, Any] = {
    torch.Generator: lambda one: torch.rand(3, generator=one).tolist(),
    np.random.Generator: lambda one: one.random(3).tolist(),
    random.Random: lambda one: [one.random() for _ in range(3)],
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_loop_that_draws_its_batches_with_a_generator_of_its_own_draws_on(tmp_path: Path, kind: str) -> None:
    def train(trial: LoopTrial) -> list[Any]:
        generator = MAKERS[kind]()
        start = trial.restore(generator=generator)
        with trial:
            found = []
            for step in range(start, trial.until):
                found.append(DRAW[type(generator)](generator))
                if trial.due(step + 1) and trial.report(step + 1, val_loss=0.5):
                    break
        return found

    assert in_stages(tmp_path / "stages", train, [3, 6, 12]) == in_stages(tmp_path / "whole", train, [12])


class Descent:
    """A loop of NumPy's: arrays in a tree, and a number."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {
            "weights": [np.array([5.0, -2.0])],
            "velocity": (np.array([0.0, 0.0]), np.float32(1)),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.state = state

    def step(self, rate: float) -> list[float]:
        (weights,), (velocity, scale) = self.state["weights"], self.state["velocity"]
        velocity = 0.9 * velocity + rate * scale * weights
        self.state = {"weights": [weights - velocity], "velocity": (velocity, scale)}
        return [float(one) for one in self.state["weights"][0]]


def test_a_loop_of_arrays_goes_on_with_them(tmp_path: Path) -> None:
    def train(trial: LoopTrial) -> list[Any]:
        descent, found = Descent(), []
        start = trial.restore(descent=descent)
        with trial:
            for step in range(start, trial.until):
                found.append(descent.step(trial.learning_rate(step)))
                if trial.due(step + 1) and trial.report(step + 1, val_loss=0.5):
                    break
        return found

    assert in_stages(tmp_path / "stages", train, [3, 6, 12]) == in_stages(tmp_path / "whole", train, [12])


def test_what_is_no_data_is_named_where_it_cannot_be_kept(tmp_path: Path) -> None:
    kept = Descent()
    kept.state = {"weights": Descent()}
    with pytest.raises(
        Broken, match=r"found tests\.test_loop_checkpoints\.Descent in what it holds; accepted are tensors"
    ):
        Folder(tmp_path).write(1, 4, state_of(4, {"descent": kept}))


def test_checkpoints_without_torch_are_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lrtune.adapters.checkpoints")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(LrtuneError, match="written by torch, and it is not here: install it, or train whole runs"):
        stage(tmp_path, 0, 6, None).restore(descent=Descent())


def test_a_directory_is_kept_whole_found_damaged_and_deleted_when_it_is_not_needed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    name = folder.write_directory(1, 4, lambda path: (path / "weights").write_bytes(b"12345"))
    assert (folder.directory(name) / "weights").read_bytes() == b"12345"
    (tmp_path / name / "more").write_bytes(b"")
    with pytest.raises(Broken, match="is not what was written"):
        folder.directory(name)
    with pytest.raises(Broken, match="a checkpoint of this folder is called"):
        folder.directory("../" + name)
    folder.drop([name])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Broken, match="trial 1 cannot be kept after step 4"):
        Folder(tmp_path, room=10).write_directory(1, 4, lambda path: (path / "weights").write_bytes(b"12345"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["restore", "checkpoint_path"])
def test_a_trial_that_begins_again_forgets_what_its_schedule_had_seen(tmp_path: Path, how: str) -> None:
    plateau = {"schedule": {"family": "plateau", "patience": 0, "factor": 0.5}, "warmup": 0.0}
    found = handout(ADAMW | plateau)
    seen = [Report(step=step, learning_rate=0.3, metrics={"val_loss": 1.0}) for step in (2, 4, 6)]
    kept = {"start": 6, "checkpoint": "trial-0-step-6-" + "0" * 32 + ".pt" * (how == "restore")}
    found = found.model_copy(update=kept | {"trial": found.trial.model_copy(update={"start": 6, "reports": seen})})
    door = Pausing(found)
    trial = LoopTrial(door, "job", found, folder=tmp_path)
    assert trial.learning_rate(8) < 0.3
    again = trial.restore(model=nn.Linear(2, 2)) == 0 if how == "restore" else trial.checkpoint_path is None
    assert (again, trial.start, door.began, trial.learning_rate(8)) == (True, 0, 0, 0.3)


def test_processes_that_share_a_folder_may_delete_in_it_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Folder(tmp_path / "job")
    names = [kept.write_directory(1, step, lambda path: (path / "weights").write_bytes(b"1")) for step in (2, 4)]
    names.append(kept.write(1, 6, {"step": 6}))
    there = kept._all()
    for vanished in (there, []):
        monkeypatch.setattr(Folder, "_all", lambda self, found=vanished: list(found))
        Folder(tmp_path / "job").drop(None)
        later = Folder(tmp_path / "job", room=10_000)
        assert later._taken() == 0
        assert later.read(later.write(1, 8, {"step": 8})) == {"step": 8}
    monkeypatch.undo()
    Folder(tmp_path / "job").drop(None)
    assert not (tmp_path / "job").exists()
    kept.drop(names)
    kept.drop(None)
    looked, there = os.scandir, tmp_path / "another"
    monkeypatch.setattr(os, "scandir", lambda path: (there.exists() and there.rmdir()) or looked(path))
    Folder(there).drop(None)
    assert not there.exists()


def test_what_a_killed_process_has_begun_to_write_does_not_fill_the_disk(tmp_path: Path) -> None:
    training, folder = Training(), Folder(tmp_path / "runs")
    old, new = folder.path / "unfinished-1-0-4", folder.path / "unfinished-2-1-4"
    for path in (old, new):
        path.mkdir()
        (path / "weights").write_bytes(b"12345")
    for file in (old / "weights", old):
        os.utime(file, (0, 0))
    folder.write(0, 1, state_of(1, training.objects))
    assert (old.exists(), new.exists()) == (False, True), "another process may be writing it"
    folder.drop(None)
    assert not folder.path.exists()
