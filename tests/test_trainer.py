"""The training loop: the same bits every time, the rates the configuration says, and every way a trial can end."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Metric, TaskSpec
from lrtune.wire.results import Report, Trial, TrialState, report_points
from worker.losses import Losses
from worker.tasks import prepare
from worker.trainer import Interrupted, Outcome, train

CPU = torch.device("cpu")
LOSS = Metric(name="val_loss", goal="minimize")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def trial(*, horizon: int = 60, seed: int = 7, schedule: object = "cosine", **configuration) -> Trial:
    schedule = {"family": schedule} if isinstance(schedule, str) else schedule
    chosen = {"optimizer": {"name": "adamw"}, "learning_rate": 0.01, "schedule": schedule} | configuration
    return Trial(
        number=3,
        role="search",
        state=TrialState.RUNNING,
        configuration=Configuration.model_validate(chosen),
        seed=seed,
        horizon=horizon,
    )


def run(task: Task, trial: Trial, *, metric: Metric = LOSS, on_report=lambda _: None, should_stop=lambda: None):
    reports: list[Report] = []

    def note(report: Report) -> str | None:
        reports.append(report)
        return on_report(report)

    outcome = train(task, trial, metric=metric, device=CPU, on_report=note, should_stop=should_stop)
    return outcome, reports


@dataclass
class Seen(Task):
    """A task that keeps the model it made, so that a test can look at its weights."""

    task: Task
    models: list[torch.nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics, self.steps_per_epoch = self.task.metrics, self.task.steps_per_epoch

    def model(self):
        self.models.append(self.task.model())
        return self.models[-1]

    def batches(self, seed):
        return self.task.batches(seed)

    def loss(self, model, batch):
        return self.task.loss(model, batch)

    def evaluate(self, model):
        return self.task.evaluate(model)


@dataclass
class Line(Task):
    """One weight that should become 3; `values` replaces what evaluate answers, `losses` adds to each step's loss."""

    values: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    metrics: tuple[str, ...] = ("val_loss",)
    steps_per_epoch: int = 1

    def model(self) -> torch.nn.Module:
        self._values, self._losses = iter(self.values), iter(self.losses)
        return torch.nn.Linear(1, 1, bias=False)

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        while True:
            yield torch.ones(1, 1)

    def loss(self, model, batch):
        return (model(batch) - 3).square().mean() + next(self._losses, 0.0)

    def evaluate(self, model):
        return {"val_loss": next(self._values, float((model.weight - 3).square()))}


@pytest.fixture
def digits() -> Task:
    return prepare(TaskSpec(name="digits"), Path())


def files(folder: Path) -> dict[str, dict]:
    """A small file for each built-in task, and the parameters that make a small model of it."""
    random = np.random.default_rng(0)
    rows = [f"{a:.3f},{'xyz'[i % 3]},{'up' if a > 0 else 'down'}" for i, a in enumerate(random.normal(size=80))]
    (folder / "table.csv").write_text("size,kind,way\n" + "\n".join(rows))
    np.savez(folder / "images.npz", x=random.normal(size=(60, 9, 9)), y=np.arange(60) % 3)
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 30)
    small = {"width": 8, "batch_size": 8}
    return {
        "digits": {"hidden": [16], "noise": 0.1},
        "tabular": {"dataset": "table.csv", "hidden": [16], "dropout": 0.2, "batch_size": 16},
        "images": {"dataset": "images.npz", "model": "resnet", **small},
        "text": {"dataset": "text.txt", "layers": 1, "heads": 2, "context": 16, "dropout": 0.1, **small},
    }


@pytest.mark.parametrize("name", ["digits", "tabular", "images", "text"])
def test_the_same_trial_twice_gives_the_same_bits_and_another_seed_does_not(name: str, tmp_path: Path):
    task = Seen(prepare(TaskSpec(name=name, params=files(tmp_path)[name]), tmp_path))
    first, again = run(task, trial(horizon=40)), run(task, trial(horizon=40))
    other = run(task, trial(horizon=40, seed=8))
    assert first == again
    assert first != other
    one, two, three = (torch.nn.utils.parameters_to_vector(model.parameters()) for model in task.models)
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert first[0].state is TrialState.COMPLETE


def test_every_report_records_the_rate_that_the_configuration_gives_to_that_step(digits: Task):
    asked = trial(horizon=57, schedule="one-cycle", learning_rate=0.0123, warmup=0.1, floor=0.01)
    _, reports = run(digits, asked)
    rates = asked.configuration.learning_rates(57)
    assert [report.learning_rate for report in reports] == [rates[report.step - 1] for report in reports]


def test_the_rates_are_those_that_a_lambda_lr_would_have_set(digits: Task):
    asked = trial(horizon=20, schedule="wsd", learning_rate=0.0123, warmup=0.1)
    _, reports = run(digits, asked)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.0123)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, asked.configuration.curve.over(20))
    torchs = []
    for _ in range(20):
        torchs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [report.learning_rate for report in reports] == torchs


def test_twenty_reports_evenly_spaced_the_last_at_the_end_and_none_at_the_start():
    assert report_points(960) == list(range(48, 961, 48))
    assert report_points(7) == [1, 2, 3, 4, 5, 6, 7]
    assert report_points(1) == [1]
    points = report_points(12_345)
    assert (len(points), points[0], points[-1]) == (20, 617, 12_345)


def test_a_complete_trial_has_the_value_of_its_last_report(digits: Task):
    outcome, reports = run(digits, trial(), metric=Metric(name="val_accuracy", goal="maximize"))
    assert outcome == Outcome(TrialState.COMPLETE, reports[-1].metrics["val_accuracy"], "", 60)
    assert set(reports[0].metrics) == {"val_loss", "val_accuracy", "train_loss"}


def test_training_at_a_sane_rate_learns_digits(digits: Task):
    outcome, reports = run(digits, trial(horizon=300, learning_rate=0.01))
    assert outcome.value is not None
    assert outcome.value < 0.25
    assert (reports[-1].metrics["val_accuracy"] or 0) > 0.93


def test_an_absurd_rate_is_stopped_within_a_few_steps_whatever_the_pruner_says(digits: Task):
    outcome, reports = run(digits, trial(horizon=10_000, learning_rate=100.0, schedule="constant"))
    assert (outcome.state, outcome.value) == (TrialState.DIVERGED, None)
    assert outcome.step == 10
    assert outcome.reason.startswith("training loss rose from 2.3")
    assert outcome.reason.endswith("at step 10 (learning rate 100)")
    assert reports == []


def test_a_loss_that_is_not_a_number_ends_the_trial_at_that_step():
    outcome, _ = run(Line(losses=(0.0, 0.0, math.nan)), trial(learning_rate=0.8))
    assert outcome == Outcome(TrialState.DIVERGED, None, "training loss became nan at step 3 (learning rate 0.798)", 3)


def test_on_a_gpu_losses_are_read_ten_steps_after_they_left_and_the_step_is_still_named():
    losses = Losses(torch.device("cuda"))
    values = [1.0, 2.0, math.nan] + [math.nan] * 17
    seen = [losses.add(step, 0.5, torch.tensor(value)) for step, value in enumerate(values, start=1)]
    assert seen == [None] * 19 + ["training loss became nan at step 3 (learning rate 0.5)"]
    before_a_report = Losses(torch.device("cuda"))
    for step in range(1, 13):
        assert before_a_report.add(step, 0.5, torch.tensor(float(step))) is None
    assert before_a_report.mean() == (6.5, None), "of all of them"
    before_a_report.add(13, 0.5, torch.tensor(5.0))
    assert before_a_report.mean() == (5.0, None)


def test_one_odd_batch_is_no_divergence_and_a_loss_below_zero_is_none_either():
    assert run(Line(losses=(0.0,) * 5 + (1e6,)), trial())[0].state is TrialState.COMPLETE
    assert run(Line(losses=(-500.0,) * 60), trial())[0].state is TrialState.COMPLETE


def test_a_metric_that_is_not_finite_is_reported_as_null_and_ends_the_trial():
    outcome, reports = run(Line(values=(1.0, math.inf)), trial(horizon=40))
    assert (outcome.state, outcome.value, outcome.step) == (TrialState.DIVERGED, None, 4)
    assert outcome.reason.startswith("val_loss was not finite at step 4")
    assert [report.metrics["val_loss"] for report in reports] == [1.0, None]


def test_a_reason_from_on_report_stops_the_trial_with_its_last_value(digits: Task):
    outcome, reports = run(digits, trial(), on_report=lambda report: "worse than others" if report.step == 6 else None)
    assert outcome == Outcome(TrialState.STOPPED, reports[-1].metrics["val_loss"], "worse than others", 6)
    assert [report.step for report in reports] == [3, 6]


def test_a_stage_pauses_at_its_planned_step_with_its_last_value_and_the_reports_of_the_complete_run(digits: Task):
    complete, reports = run(digits, trial())
    stage, seen = run(digits, trial().model_copy(update={"until": 31}))
    assert (complete.state, seen) == (TrialState.COMPLETE, reports[:10])
    assert stage == Outcome(
        TrialState.PAUSED, seen[-1].metrics["val_loss"], "trained until step 31 of 60, as planned", 31
    )


def test_a_verdict_on_the_last_report_comes_too_late(digits: Task):
    outcome, _ = run(digits, trial(), on_report=lambda report: "too late" if report.step == 60 else None)
    assert (outcome.state, outcome.reason) == (TrialState.COMPLETE, "")


def test_it_asks_at_every_step_whether_to_go_on(digits: Task):
    answers = iter([None] * 4 + ["the job was paused"])
    with pytest.raises(Interrupted, match="the job was paused"):
        run(digits, trial(), should_stop=lambda: next(answers))


@pytest.mark.parametrize(("goal", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_a_plateau_lowers_the_rate_after_reports_that_do_not_improve(goal: str, sign: float):
    schedule = {"family": "plateau", "factor": 0.5, "patience": 1}
    values = tuple(sign * value for value in (5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0))
    asked = trial(horizon=20, schedule=schedule, learning_rate=0.08, optimizer={"name": "sgd"})
    _, reports = run(Line(values=values), asked, metric=Metric(name="val_loss", goal=goal))
    assert [report.learning_rate for report in reports[:9]] == [0.08] * 4 + [0.04] * 3 + [0.02] * 2
    curve = asked.configuration.curve.after([(r.step, sign * (r.metrics["val_loss"] or 0.0)) for r in reports], 20)
    assert [report.learning_rate for report in reports] == [0.08 * curve.over(20)(step) for step in range(20)]


def test_gradients_are_clipped_by_norm_and_by_value():
    """One step of plain gradient descent moves the weight by the clipped gradient, exactly."""
    sgd = {"name": "sgd", "momentum": 0.0}
    for clip, moved in (({"clip_norm": 0.25}, 0.25), ({"clip_value": 0.125}, 0.125)):
        task = Seen(Line())
        run(task, trial(horizon=2, optimizer=sgd, schedule="constant", learning_rate=1.0, **clip))
        torch.manual_seed(7)
        start = torch.nn.Linear(1, 1, bias=False).weight.item()
        assert task.models[0].weight.item() - start == pytest.approx(2 * moved, rel=1e-5)


def test_a_metric_that_the_task_does_not_have_is_refused_in_words(digits: Task):
    with pytest.raises(TaskError, match="found 'val_mae'; this task measures val_loss, val_accuracy"):
        run(digits, trial(), metric=Metric(name="val_mae", goal="minimize"))


def test_a_task_that_forgets_a_metric_is_told_which():
    with pytest.raises(TaskError, match="evaluate did not give val_f1"):
        run(Line(metrics=("val_loss", "val_f1")), trial())


def test_what_a_task_raises_comes_through():
    class Broken(Line):
        def loss(self, model, batch):
            raise ZeroDivisionError("in the user's own code")

    with pytest.raises(ZeroDivisionError, match="the user's own code"):
        run(Broken(), trial())
