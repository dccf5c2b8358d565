"""Weights spread over the devices of a trial: the numbers of copies, states of whole tensors, words for the rest."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lrtune.errors import TaskError
from lrtune.optimizers import OPTIMIZERS
from lrtune.task import Task
from lrtune.wire.job import Training
from lrtune.wire.results import Report, TrialState
from tests.devices import Around, Listed, Noisy, Often, Penalty, Sized, Tied
from tests.test_devices import Room, until
from tests.test_states import unmarked
from tests.test_trainer import CPU, trial
from worker.checkpoint_cache import Start
from worker.parallel import Team
from worker.run import LiveRun
from worker.sharded import own
from worker.snapshot import Snapshot, Unfit, put, restore
from worker.trainer import follow

SPREAD = Training(devices=2, sharded=True)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def losses(reports: list[Report]) -> list[float | None]:
    return [report.metrics["val_loss"] for report in reports]


def spread_over(devices: int, **more: Any) -> Training:
    return Training.model_validate({"devices": devices, "sharded": devices > 1} | more)


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("adamw", {"accumulate": 2}),
        pytest.param("sgd", {"precision": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param("adamw", {"precision": "float16"}, marks=pytest.mark.slow),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name, found in OPTIMIZERS.items() if not found.unsharded),
    ],
)
def test_shards_come_to_the_numbers_of_copies_and_of_one_device(
    optimizer: str, more: dict[str, Any], tmp_path: Path
) -> None:
    room, cls = Room(tmp_path), OPTIMIZERS[optimizer]
    family, rate = "constant" if cls.families else "cosine", 3 * cls.usual
    asked = trial(
        horizon=20, optimizer={"name": optimizer}, learning_rate=rate, schedule=family, clip_norm=0.3, clip_value=0.05
    )
    _, spread, weights = room.together(Tied(), asked, spread_over(2, **more), shares=False)
    _, copied, _ = room.together(Tied(), asked, Training(devices=2, **more), shares=False)
    _, alone, _ = room.train(Tied(), asked, training=Training(**more), shares=False)
    near = 0.02 if more.get("precision") else 1e-4
    assert losses(spread) == pytest.approx(losses(copied), rel=near)
    if more.get("precision") != "float16":  # whose loss of two shares overflows at another scale
        assert losses(spread) == pytest.approx(losses(alone), rel=near)
    assert losses(alone)[-1] < losses(alone)[0]
    assert sum(own(one).numel() for one in weights) * 2 == sum(one.numel() for one in weights), "half on each device"


def kept(room: Room, folder: Path) -> Snapshot:
    """The only state of a stage's end."""
    (path,) = folder.rglob("*_stage_*.safetensors")
    return room.store.read(next(iter(room.store.entries(path.parent.name).values())))


def test_a_sharded_run_in_stages_equals_the_run_in_one_piece(tmp_path: Path) -> None:
    room, asked, task = Room(tmp_path), trial(horizon=40, warmup=0.1), Noisy()
    three = spread_over(3)  # which no layer's rows can be parted into evenly
    outcome, reports, _ = room.together(task, asked, three, shares=False)
    for step in (7, 22):
        room.together(task, until(asked, step), three)
    again, more, _ = room.together(task, asked, three)
    assert (again, unmarked(more)) == (outcome, reports)
    assert room.starts == [Start(7, 0, ()), Start(22, 0, ())]
    assert room.said == []


def test_a_state_of_shards_is_of_whole_tensors_and_goes_on_over_one_device_or_two(tmp_path: Path) -> None:
    room, asked = Room(tmp_path), trial(horizon=20)
    room.together(Tied(), until(asked, 10), SPREAD)
    state = kept(room, tmp_path)
    _, whole, _ = room.together(Tied(), asked, SPREAD, shares=False)
    alone = LiveRun(Tied(), asked, Training(), CPU)
    put(alone, state)
    assert alone.engine.evaluate()["val_loss"] == pytest.approx(losses(whole)[9], rel=1e-5)
    assert {one.shape for one in alone.engine.model.parameters()} == {(16, 8), (8, 8), (8,)}
    assert state.tensors["optimizer/0/0/exp_avg"].shape == (16, 8)
    for training in (SPREAD, Training(devices=2)):
        with Team(2, CPU, partial(follow, Tied(), asked, training)) as member:
            run = LiveRun(Tied(), asked, training, CPU, member=member)
            restore(run, state)
            assert run.engine.evaluate()["val_loss"] == pytest.approx(losses(whole)[9], rel=1e-5)
    with Team(3, CPU, partial(follow, Tied(), asked, spread_over(3))) as member, pytest.raises(Unfit):
        restore(LiveRun(Tied(), asked, spread_over(3), CPU, member=member), state)


def test_a_sharded_run_that_diverges_ends_at_once_and_nobody_waits_for_it(tmp_path: Path) -> None:
    outcome, _, _ = Room(tmp_path).together(Noisy(), trial(horizon=40, learning_rate=900.0, clip_norm=1.0), SPREAD)
    assert outcome.state is TrialState.DIVERGED


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Around, "the task computes with the weights of a layer .* is false"),
        (Listed, "the model or its task holds first.weight elsewhere .* is false"),
        (Penalty, "the loss has weights in it .* is false"),
    ],
)
def test_a_task_that_takes_weights_otherwise_than_by_their_layers_is_told_so(
    task: type[Task], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=rf"training\.sharded: {words}"):
        Room(tmp_path).together(task(), trial(horizon=40), SPREAD)


def test_a_number_that_is_measured_of_the_weights_is_of_all_of_them(tmp_path: Path) -> None:
    room, asked = Room(tmp_path), trial(horizon=20)
    _, spread, _ = room.together(Sized(), asked, SPREAD, shares=False)
    _, alone, _ = room.train(Sized(), asked, shares=False)
    assert losses(spread) == pytest.approx(losses(alone), rel=1e-4)


def test_devices_whose_batch_norms_saw_other_examples_measure_together(tmp_path: Path) -> None:
    outcome, _, _ = Room(tmp_path).together(Often(), trial(horizon=20), SPREAD, shares=False)
    assert outcome.state is TrialState.COMPLETE
