"""Trials as lanes of one network: each as it would be alone, whatever its neighbours do."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrtune.analysis.prefixes import Course
from lrtune.optimizers import OPTIMIZERS
from lrtune.task import Task
from lrtune.wire.job import TaskSpec, Training
from lrtune.wire.results import Report, Trial, TrialState
from tests.test_states import Lab
from tests.test_trainer import CPU, LOSS, run, trial
from worker import lanes
from worker.cohort import Lane, train_together
from worker.run import LiveRun
from worker.stacked import Apart, scaled
from worker.stage import Outcome, Stage
from worker.tasks import prepare
from worker.trainer import PLAIN, Interrupted, train

STEPS = 100
CHOICES = [  # one configuration a lane: peaks, schedules, warm-ups and clips of its own
    {"factor": 0.3, "clip_norm": None},
    {"factor": 1.0, "clip_norm": 1.0, "warmup": 0.1},
    {"factor": 2.0, "clip_norm": 0.1, "clip_value": 0.05, "schedule": {"family": "linear", "final": 0.0}},
    {"factor": 0.1, "clip_norm": None, "schedule": {"family": "plateau", "factor": 0.5, "patience": 1}},
]
Ends = list[tuple[Outcome | BaseException, list[Report]]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Made(Task):
    """A network of the test's over 64 pictures of noise."""

    def __init__(self, make: Callable[[], nn.Module], groups: Callable[[nn.Module], Any] | None = None) -> None:
        super().__init__()
        self._make, self._groups = make, groups

    def model(self) -> nn.Module:
        return self._make()

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def train_set(self) -> list[tuple[torch.Tensor, int]]:
        generator = torch.Generator().manual_seed(0)
        return [(torch.randn(1, 6, 6, generator=generator), place % 4) for place in range(64)]

    def validation_set(self) -> list[tuple[torch.Tensor, int]]:
        return self.train_set()[:32]

    def groups(self, model: nn.Module) -> Any:
        return self._groups(model) if self._groups else super().groups(model)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.memory(pictures[:, 0])[0][:, -1])
        return found


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(36, 4), nn.Linear(36, 4)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.one(pictures.flatten(1))
        return found


class Keeps(nn.Module):
    """A network that keeps what is neither a weight nor a buffer."""

    def __init__(self, keep: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.keep, self.kept = nn.Linear(36, 4), keep, None

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(pictures.flatten(1))
        self.kept = self.keep(self.kept, found)
        return found


def with_hook(add: Callable[[nn.Module], Any]) -> nn.Module:
    layer = nn.Linear(36, 4)
    add(layer)
    return nn.Sequential(nn.Flatten(), layer)


def flat(*between: Callable[[], nn.Module]) -> nn.Module:
    """Without biases before a norm: their gradients are rounding alone, which Adam makes steps of."""
    first = nn.Linear(36, 16, bias=not between)
    return nn.Sequential(nn.Flatten(), first, *(make() for make in between), nn.ReLU(), nn.Linear(16, 4))


def pooled() -> nn.Module:
    first = (nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
    return nn.Sequential(*first, nn.Dropout(0.2), nn.Linear(16, 4))


def rates(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], "rate": 0.1, "weight_decay": 0.0}, {"params": parameters[2:]}]


def chosen(name: str = "adamw", *, usual: float | None = None, **more: Any) -> list[Trial]:
    """One trial for each choice."""
    peak = usual or OPTIMIZERS[name].usual
    asked: list[Mapping[str, Any]] = [{**one, "learning_rate": peak * one["factor"]} for one in CHOICES]
    known = ({key: value for key, value in one.items() if key != "factor"} for one in asked)
    return [trial(horizon=STEPS, optimizer={"name": name}, **one, **more) for one in known]


def trained(
    task: Task,
    trials: list[Trial],
    *,
    training: Training = PLAIN,
    least: int = 1,
    on_report: Callable[[int, Report], str | None] = lambda lane, report: None,
    should_stop: Callable[[int, LiveRun], str | None] = lambda lane, run: None,
) -> Ends:
    """Trials as lanes: how each ended, and its reports."""
    runs = [LiveRun(task, one, training, CPU) for one in trials]
    pairs = list(zip(runs, trials, strict=True))
    courses = [Course(one.configuration, one.horizon, until=one.until) for one in trials]
    stages = [Stage(run, courses[at], LOSS, partial(on_report, at)) for at, run in enumerate(runs)]
    given = [Lane(one.configuration, stages[at], partial(should_stop, at, run)) for at, (run, one) in enumerate(pairs)]
    torch.manual_seed(99)  # others may have been begun since
    ends = dict(train_together(given, least))
    return [(ends[lane], lane.stage.run.reports) for lane in given]


def same(found: Ends, alone: list[tuple[Outcome, list[Report]]]) -> None:
    """Lanes ended as the trials did alone, with the same reports to 1e-5."""
    for (how, reports), (outcome, expected) in zip(found, alone, strict=True):
        assert isinstance(how, Outcome), how
        assert (how.state, how.step, how.reason) == (outcome.state, outcome.step, outcome.reason)
        assert [one.step for one in reports] == [one.step for one in expected]
        for one, other in zip(reports, expected, strict=True):
            assert one.learning_rate == other.learning_rate
            assert one.metrics == pytest.approx(other.metrics, rel=1e-5), one.step


@pytest.fixture(scope="module")
def digits() -> Task:
    return prepare(TaskSpec(name="digits", params={"hidden": [8]}), Path())


@pytest.mark.parametrize("name", [name for name, cls in OPTIMIZERS.items() if scaled(cls())])
def test_a_lane_is_the_trial_alone_over_the_first_hundred_steps(name: str, digits: Task) -> None:
    trials = chosen(name)
    same(trained(digits, trials), [run(digits, one) for one in trials])


NETWORKS: dict[str, Task] = {
    "batch norm": Made(partial(flat, partial(nn.BatchNorm1d, 16))),
    "dropout": Made(partial(flat, partial(nn.Dropout, 0.3))),
    "pooling": Made(pooled),
    "groups": Made(flat, rates),
}


@pytest.mark.parametrize("task", NETWORKS.values(), ids=NETWORKS)
def test_what_a_network_keeps_and_draws_is_each_lanes_own(task: Task) -> None:
    trials = chosen(usual=3e-3)
    same(trained(task, trials), [run(task, one) for one in trials])


def test_lanes_leave_when_their_stages_end_and_the_last_one_goes_on_alone(digits: Task) -> None:
    trials = [one.model_copy(update={"until": until}) for one, until in zip(chosen(), (10, 30, None, 60), strict=True)]
    found = trained(digits, trials, least=2)
    same(found, [run(digits, one) for one in trials])
    assert [how.state for how, _ in found] == ["paused", "paused", "complete", "paused"]


def test_where_few_are_left_each_goes_on_with_the_batches_and_the_random_numbers_that_come_next() -> None:
    task = NETWORKS["dropout"]
    trials = [
        one.model_copy(update={"until": until}) for one, until in zip(chosen(), (10, 20, None, None), strict=True)
    ]
    same(trained(task, trials, least=4), [run(task, one) for one in trials])


def test_a_lane_that_diverges_or_is_stopped_or_fails_or_is_taken_away_leaves_the_others_alone(digits: Task) -> None:
    trials = [trial(horizon=STEPS, learning_rate=rate) for rate in (1e3, 0.01, 0.02, 0.03, 0.004)]

    def on_report(lane: int, report: Report) -> str | None:
        if lane == 2 and report.step >= 20:
            raise SystemExit("no more")
        return "not good enough" if lane == 1 and report.step >= 50 else None

    def should_stop(lane: int, run: LiveRun) -> str | None:
        return "the lease is lost" if lane == 3 and run.step >= 30 else None

    found = trained(digits, trials, on_report=on_report, should_stop=should_stop)
    alone = [
        run(digits, one, on_report=partial(on_report, at))
        for at, one in ((0, trials[0]), (1, trials[1]), (4, trials[4]))
    ]
    same([found[0], found[1], found[4]], alone)
    assert [alone[at][0].state for at in range(3)] == [TrialState.DIVERGED, TrialState.STOPPED, TrialState.COMPLETE]
    assert isinstance(found[2][0], SystemExit)
    assert isinstance(found[3][0], Interrupted)


@pytest.mark.parametrize(
    ("training", "near"), [(Training(accumulate=2), 1e-5), (Training(precision="bfloat16"), 0.05)], ids=["sums", "half"]
)
def test_lanes_add_up_batches_and_compute_in_half_precision_as_one_does(
    training: Training, near: float, digits: Task
) -> None:
    def alone(one: Trial) -> list[Report]:
        reports: list[Report] = []
        more = {"on_report": lambda report: reports.append(report), "should_stop": lambda: None}
        train(digits, one, metric=LOSS, device=CPU, training=training, **more)
        return reports

    for one, (how, reports) in zip(chosen(), trained(digits, chosen(), training=training), strict=True):
        assert isinstance(how, Outcome)
        expected = [report.metrics["val_loss"] for report in alone(one)]
        assert [report.metrics["val_loss"] for report in reports] == pytest.approx(expected, rel=near)


def test_what_a_lane_keeps_goes_on_alone_and_as_a_lane(tmp_path: Path, digits: Task) -> None:
    lab, preferred = Lab(tmp_path), Training(determinism="preferred")
    asked = [one.model_copy(update={"number": at}) for at, one in enumerate(chosen())]
    caches = []

    def stages(until: int | None) -> list[Lane]:
        made = []
        for one in (each.model_copy(update={"until": until}) for each in asked):
            caches.append(lab.cache(digits, one, training=preferred))
            begin = partial(LiveRun, digits, one, preferred, CPU)
            course = Course(one.configuration, STEPS, until=until)
            begun = caches[-1].begin(begin, course)
            made.append(Lane(one.configuration, Stage(begun, course, LOSS, lambda _: None, caches[-1]), lambda: None))
        return made

    def ended(lanes: list[Lane]) -> Ends:
        ends = dict(train_together(lanes))
        for cache in caches:
            cache.close()
        return [(ends[lane], lane.stage.run.reports) for lane in lanes]

    assert {how.step for how, _ in ended(stages(30))} == {30}
    assert {how.step for how, _ in ended(stages(60))} == {60}  # the states of thirty steps are taken up as lanes
    assert [start.step for start in lab.starts] == [30] * 4
    whole = [lab.train(digits, one, training=preferred)[:2] for one in asked]  # and those of sixty alone
    assert [start.step for start in lab.starts] == [30] * 4 + [60] * 4
    same([*whole], [run(digits, one) for one in asked])


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Made(Recurrent), "atching rule not implemented for aten::lstm"),
        (Made(Unused), "other.weight has no part in the loss"),
    ],
    ids=["lstm", "unused"],
)
def test_a_network_that_cannot_be_lanes_says_why(task: Task, words: str) -> None:
    with pytest.raises(Apart, match=words):
        trained(task, chosen())
    worth = lanes.measure(task, chosen()[0], Training(determinism="off"), CPU, 4)
    assert (worth.most, worth.words) == (1, worth.words)
    assert re.search(f"^trials are trained one by one, not as lanes: .*{words}", worth.words)


HOOK = "has a hook on its gradient"
APART: dict[str, tuple[Task, str]] = {
    "counts": (Made(partial(Keeps, lambda kept, _: (kept or 0) + 1)), "kept changes as it trains"),
    "output": (Made(partial(Keeps, lambda _, found: found.detach())), "kept changes as it trains"),
    "weight": (
        Made(partial(with_hook, lambda one: one.weight.register_hook(lambda slope: slope / 10))),
        f"weight {HOOK}",
    ),
    "layer": (Made(partial(with_hook, lambda one: one.register_full_backward_hook(lambda *_: None))), f"1 {HOOK}"),
    "before": (Made(partial(with_hook, lambda one: one.register_full_backward_pre_hook(lambda *_: None))), f"1 {HOOK}"),
    "after": (Made(partial(with_hook, lambda one: one.bias.register_post_accumulate_grad_hook(print))), f"bias {HOOK}"),
}


@pytest.mark.parametrize(("task", "words"), APART.values(), ids=APART)
def test_a_network_that_keeps_more_than_tensors_or_changes_its_gradients_is_trained_alone(
    task: Task, words: str
) -> None:
    worth = lanes.measure(task, chosen()[0], Training(determinism="off"), CPU, 4)
    assert worth.most == 1
    assert words in worth.words


@pytest.mark.parametrize(
    ("asked", "training", "words"),
    [
        (trial(), Training(), "training.determinism is exact"),
        (trial(), Training(determinism="off", ema=0.9), "training.ema is 0.9"),
        (trial(), Training(determinism="off", compile="auto"), "training.compile is auto"),
        (trial(), Training(determinism="off", precision="float16"), "training.precision is float16"),
        (trial(optimizer={"name": "muon"}), Training(determinism="off"), "the steps of muon are more than a rate"),
        (trial(horizon=10), Training(determinism="off"), "a run has only 10 steps"),
    ],
)
def test_what_goes_with_one_trial_at_a_time_is_said(asked: Trial, training: Training, words: str, digits: Task) -> None:
    worth = lanes.measure(digits, asked, training, CPU, 4)
    assert worth.most == 1
    assert words in worth.words


class Drawing(Made):
    """Its loss is another one under vmap than outside."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        loss = super().loss(model, batch)
        return loss * 1.01 if torch._C._functorch.is_batchedtensor(loss) else loss


def test_lanes_that_train_otherwise_than_alone_are_found_out_before_they_train() -> None:
    worth = lanes.measure(Drawing(flat), chosen()[0], Training(determinism="off"), CPU, 4)
    assert worth.most == 1
    assert re.search(r"the loss of step 1 is [\d.]+ alone and [\d.]+ as a lane", worth.words)


def test_whether_lanes_pay_is_measured(monkeypatch: pytest.MonkeyPatch, digits: Task) -> None:
    """By a clock of the test's: eight lanes take so long, two lanes so long, one trial alone a second."""
    training = Training(determinism="off")

    def worth(alone: float, two: float, eight: float) -> lanes.Worth:
        found = {1: alone, 2: two, 8: eight, 4: 9.0}
        sampled = lanes._sample
        monkeypatch.setattr(
            lanes,
            "_sample",
            lambda runs, steps, device: replace(sampled(runs, steps, device), seconds=found[len(runs)]),
        )
        answer = lanes.measure(digits, chosen()[0], training, CPU, 8)
        monkeypatch.undo()
        return answer

    assert worth(0.001, 0.002, 0.0032).most == 8
    assert worth(0.001, 0.002, 0.0032).least == 3  # 1.6 and 0.2 for each lane: three take 2.2, four 2.4
    assert worth(0.001, 0.0015, 0.0065).least == 2
    assert "does not pay, 1 ms a step alone, 3 ms for two" in worth(0.001, 0.003, 0.0080).words
    assert "a step takes 100 ms" in worth(0.1, 0.1, 0.1).words
