"""What only a GPU can show: `make test-gpu`, on a machine that has one. Elsewhere all of it is skipped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_nets import NETS
from benchmarks.gpu_parts import PARTS, Bench, Row
from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.job import Objective, TaskSpec, Training
from lrtune.wire.results import Report, TrialState
from tests.test_trainer import trial
from worker.determinism import make_deterministic
from worker.engine import Engine
from worker.tasks import prepare
from worker.trainer import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.timeout(600),
]
CUDA = torch.device("cuda")
DIGITS = TaskSpec(name="digits", params={"hidden": [64, 64]})


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    make_deterministic(0)


def trained(task: Task, training: Training, *, horizon: int = 60, **chosen: object):
    reports: list[Report] = []
    said: list[str] = []
    outcome = train(
        task,
        trial(horizon=horizon, **chosen),
        metric=Objective(name="val_loss", goal="minimize"),
        device=CUDA,
        on_report=lambda report: reports.append(report),
        should_stop=lambda: None,
        training=training,
        say=said.append,
        say_once=said.append,
    )
    return outcome, reports, said


@pytest.mark.parametrize("part", ["a", "d", "e", "f", "g"])
def test_what_the_benchmark_promises_holds_here(part: str, tmp_path: Path):
    rows: list[Row] = list(PARTS[part](Bench(tmp_path, "cuda", small=True)))
    assert [row for row in rows if row["fine"] is False] == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "adam"])
def test_nothing_waits_for_the_device_between_two_reports(name: str, precision: str):
    cls, _ = NETS["batch-norm MLP"]
    for task in (prepare(DIGITS, Path()).to(CUDA), cls().to(CUDA)):
        asked = trial(horizon=60, optimizer={"name": name}, clip_norm=1.0)
        engine = Engine(task, asked, Training(precision=precision, ema=0.9), CUDA)
        batches = task.batches(7)
        for step in range(13):
            engine.set_factor(0.5)
            engine.gradients(batches)
            engine.apply()
            if step == 2:  # the first steps make what is made once
                torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")


def test_exact_refuses_by_name_what_preferred_trains_and_names():
    cls, _ = NETS["adaptive max pooling"]
    with pytest.raises(TaskError, match="found exact; adaptive_max_pool2d"):
        trained(cls(), Training(determinism="exact"))
    outcome, _, said = trained(cls(), Training())
    assert outcome.state is TrialState.COMPLETE
    assert said[0].startswith("training.determinism is preferred, the default on cuda")
    assert "adaptive_max_pool2d" in said[1]


def test_a_batch_that_does_not_fit_is_trained_in_parts_and_a_model_that_does_not_is_said_with_the_numbers():
    total = torch.cuda.get_device_properties(CUDA).total_memory

    class Wide(NETS["batch-norm MLP"][0]):  # type: ignore[misc]
        def loss(self, model, batch):
            much = torch.empty(int(0.75 * total * len(batch[0]) / 64 * 2), dtype=torch.uint8, device=CUDA)
            return super().loss(model, batch) + 0 * much[0]

    _, _, said = trained(Wide(), Training(), horizon=4)
    assert any("batches are trained in 2 parts from here on" in words for words in said)

    class Huge(NETS["batch-norm MLP"][0]):  # type: ignore[misc]
        def model(self):
            return torch.nn.Sequential(
                super().model(), torch.nn.Embedding(total // 4, 2, device="meta").to_empty(device=CUDA)
            )

    with pytest.raises(TaskError, match="out of memory before the first step: cuda has"):
        trained(Huge(), Training(), horizon=4)
    assert trained(NETS["batch-norm MLP"][0](), Training(), horizon=4)[0].state is TrialState.COMPLETE


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_what_is_compiled_trains_as_what_is_not():
    cls, _ = NETS["batch-norm MLP"]
    task = cls()
    _, plain, _ = trained(task, Training())
    _, one, said = trained(task, Training(compile="auto"))
    _, two, again = trained(task, Training(compile="auto"))
    assert len(said) == len(again) + 1, "measured once"
    for found in (one, two):
        assert [r.metrics["train_loss"] for r in found][:3] == pytest.approx(
            [r.metrics["train_loss"] for r in plain][:3], rel=0.02
        )
