"""The training loop: one trial, one whole schedule, the same bits every time for the same seed.

The divergence guard works whatever the pruner: a loss that is not finite, or one that has gone far above the first,
ends a trial at once. What a task is stands in `lrtune/task.py`, the optimizers in `worker/optimizers.py`.
"""

import math
import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrtune.errors import TaskError
from lrtune.results import Report, Trial, TrialState, report_points
from lrtune.spec import Metric, Training
from lrtune.task import Task
from worker.engine import Engine
from worker.parallel import Member

PLAIN = Training()
WINDOW = 10  # steps whose median loss is compared with the first loss: one odd batch is no divergence
SYNC_STEPS = 10  # on a GPU the loss is read so often, because reading it waits for the device


class Interrupted(Exception):
    """The trial was given up in mid-course, for a reason that is not its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended: its state, its last value, why in words, and how many steps it took."""

    state: TrialState
    value: float | None
    reason: str
    step: int
    traceback: str = ""  # of a task that raised something: the frames of whoever wrote it


def make_deterministic(seed: int) -> None:
    """Seed every generator, and have torch choose algorithms that give the same bits each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # of every device


class Losses:
    """The training losses: read from the device now and then, watched for divergence, averaged for each report."""

    def __init__(self, device: torch.device) -> None:
        self._wait = 1 if device.type == "cpu" else SYNC_STEPS
        self._unread: list[tuple[int, float, Tensor]] = []
        self._since_report: list[float] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None

    def add(self, step: int, rate: float, loss: Tensor) -> str | None:
        """Take the loss of a step; answers why the run has diverged, once that is seen."""
        self._unread.append((step, rate, loss.detach()))
        return self._read() if len(self._unread) >= self._wait else None

    def mean(self) -> tuple[float, str | None]:
        """The mean since the last report, and why the run has diverged, if it has."""
        trouble = self._read()
        values, self._since_report = self._since_report, []
        return fmean(values), trouble

    def _read(self) -> str | None:
        unread, self._unread = self._unread, []
        if not unread:
            return None
        values = torch.stack([loss for _, _, loss in unread]).tolist()
        self._since_report += values
        looks = (self._trouble(step, rate, value) for (step, rate, _), value in zip(unread, values, strict=True))
        return next(filter(None, looks), None)

    def _trouble(self, step: int, rate: float, value: float) -> str | None:
        where = f"at step {step} (learning rate {rate:.3g})"
        if not math.isfinite(value):
            return f"training loss became {value} {where}"
        if self._first is None:
            self._first = value
        self._recent.append(value)
        now = median(self._recent)
        # ten times the first loss plus one, written so that it also holds for a loss below zero
        if len(self._recent) == WINDOW and now > self._first + 9 * abs(self._first) + 1:
            return f"training loss rose from {self._first:.3g} to {now:.3g} {where}"
        return None


def train(
    task: Task,
    trial: Trial,
    *,
    metric: Metric,
    device: torch.device,
    on_report: Callable[[Report], str | None],
    should_stop: Callable[[], str | None],
    training: Training = PLAIN,
    say: Callable[[str], None] = lambda _: None,
    member: Member | None = None,
) -> Outcome:
    """Train one trial to its end, or until it diverges, `on_report` gives a reason to stop it, or it is interrupted.

    Raises Interrupted as soon as `should_stop` gives a reason; it is asked at every step.
    """
    if metric.name not in task.metrics:
        raise TaskError(f"metric: found {metric.name!r}; this task measures {', '.join(task.metrics)}")
    make_deterministic(trial.seed)
    configuration, steps = trial.configuration, trial.horizon
    engine = Engine(task.to(device), trial, training, device, say=say, member=member)
    batches, losses, points = endless(engine.task.batches(trial.seed)), Losses(device), set(report_points(steps))
    factor, seen, value = configuration.curve.over(steps), list[tuple[int, float]](), None
    end = min(trial.until or steps, steps)
    for step in range(1, end + 1):
        if reason := should_stop():
            raise Interrupted(reason)
        engine.set_factor(factor(step - 1))
        rate = configuration.learning_rate * factor(step - 1)
        loss = engine.gradients(batches)
        if diverged := losses.add(step, rate, loss):
            return Outcome(TrialState.DIVERGED, None, diverged, step)
        engine.apply()
        if step not in points:
            continue
        mean, diverged = losses.mean()
        if diverged:
            return Outcome(TrialState.DIVERGED, None, diverged, step)
        measured = {**engine.evaluate(), "train_loss": mean}
        report = Report(step=step, learning_rate=rate, metrics={k: _finite(v) for k, v in measured.items()})
        stop, value = on_report(report), report.metrics[metric.name]
        if value is None:
            reason = f"{metric.name} became {measured[metric.name]} at step {step} (learning rate {rate:.3g})"
            return Outcome(TrialState.DIVERGED, None, reason, step)
        if stop and step < end:
            return Outcome(TrialState.STOPPED, value, stop, step)
        seen.append((step, metric.sign * value))
        factor = configuration.curve.after(seen, steps).over(steps)
    if end < steps:
        return Outcome(TrialState.STOPPED, value, f"looked at until step {end} of {steps}, as planned", end)
    return Outcome(TrialState.COMPLETE, value, "", steps)


def endless(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches of a task, with a word when they end after all."""
    drawn = 0
    for batch in batches:
        drawn += 1
        yield batch
    raise TaskError(f"batches ran dry after {drawn} of them; they must go on without end, epoch after epoch")


def follow(task: Task, trial: Trial, training: Training, member: Member) -> None:
    """Train a trial's share on another device, as the first member of the team says."""
    make_deterministic(trial.seed)
    engine = Engine(task.to(member.device), trial, training, member.device, member=member)
    engine.follow(endless(engine.task.batches(trial.seed)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
