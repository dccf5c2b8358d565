"""The training loop: one stage of one trial, or all of it, the same bits every time for the same seed.

The divergence guard works whatever the pruner: a loss that is not finite, or one that has gone far above the first,
ends a trial at once. What a task is stands in `lrtune/task.py`, how one update is made in `worker/engine.py`, what
changes on the way in `worker/run.py`, what is due between two steps in `worker/stage.py`, what is known from other
trials in `worker/checkpoint_cache.py`.
"""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial

import torch

from lrtune.analysis.prefixes import Course
from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.job import Metric, Training
from lrtune.wire.results import Report, Trial
from worker import compiling
from worker.checkpoint_cache import CheckpointCache
from worker.determinism import Noticing, mode_of, refused, words_of
from worker.memory import does_not_fit, give_back, out_of_memory
from worker.parallel import Member, Order
from worker.run import LiveRun
from worker.snapshot import Snapshot, Unfit, restore_together, take_part, through
from worker.stage import Outcome as Outcome
from worker.stage import Stage

PLAIN = Training()


class Interrupted(Exception):
    """The trial was given up in mid-course, for a reason that is not its own."""


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
    say_once: Callable[[str], None] = lambda _: None,
    member: Member | None = None,
    cache: CheckpointCache | None = None,
) -> Outcome:
    """Train one trial until its stage ends, it diverges, `on_report` gives a reason to stop it, or it is interrupted.

    With a cache of checkpoints it starts from the longest known beginning, whose reports come first as if trained here.
    Raises Interrupted as soon as `should_stop` gives a reason; it is asked at every step. `say` gets what is decided
    for this trial, `say_once` what is the same for all trials of its job on such a device.
    """
    if metric.name not in task.metrics:
        raise TaskError(f"metric: found {metric.name!r}; this task measures {', '.join(task.metrics)}")
    if words := words_of(training, device):
        say_once(words)
    course = Course(trial.configuration, trial.horizon, sign=metric.sign, until=trial.until)
    fresh = partial(LiveRun, task, trial, training, device, say=say, member=member)
    begin = partial(cache.begin, fresh, course) if cache else fresh

    def trained(run: LiveRun) -> Outcome:
        stage = Stage(run, course, metric, telling(on_report, noticing), cache)
        return stage.begun() or go_on(stage, should_stop)

    try:
        with Noticing(say_once) if mode_of(training, device) == "preferred" else nullcontext() as noticing:
            return _explained(begin, trained, device)
    finally:
        compiling.rest()
        give_back(device)  # no frame holds the run any more


def _explained(begin: Callable[[], LiveRun], go_on: Callable[[LiveRun], Outcome], device: torch.device) -> Outcome:
    """A run from its beginning; what only a person can mend ends it in words: no memory, no deterministic algorithm."""
    run: LiveRun | None = None
    try:
        run = begin()
        return go_on(run)
    except RuntimeError as error:
        if words := refused(error):
            raise TaskError(words) from error
        if out_of_memory(error):
            raise TaskError(run.engine.does_not_fit(error) if run else does_not_fit(error, device, None)) from error
        raise


def telling(on_report: Callable[[Report], str | None], noticing: Noticing | None) -> Callable[[Report], str | None]:
    """The same, and what has been noticed is said at each report."""

    def heard(report: Report) -> str | None:
        if noticing is not None:
            noticing.pass_on()
        return on_report(report)

    return heard


def go_on(stage: Stage, should_stop: Callable[[], str | None]) -> Outcome:
    """Train a run from where it stands until its stage ends, or it does. Raises Interrupted."""
    ended = None
    while ended is None:
        if reason := should_stop():
            raise Interrupted(reason)
        ended = _step(stage.run, stage) or stage.reached()
    return ended


def _step(run: LiveRun, stage: Stage) -> Outcome | None:
    """One step; the end of a run that has diverged, once that is seen."""
    factor = stage.course.factor(run.step)
    run.engine.set_factor(factor)
    loss = run.engine.gradients(run.batches)
    run.step += 1
    diverged = run.losses.add(run.step, stage.course.configuration.learning_rate * factor, loss)
    if not diverged or run.engine.training.sharded:  # there the others wait for this one's part of the norm
        run.engine.apply()
    return stage.diverged(diverged) if diverged else None


def follow(task: Task, trial: Trial, training: Training, member: Member) -> None:
    """Train a trial's share on another device, as the first member of the team says."""
    order, _ = member.heard()
    while order is Order.BEGIN:  # again, where a state did not fit
        order = _followed(LiveRun(task, trial, training, member.device, member=member), member)


def _followed(run: LiveRun, member: Member) -> Order:
    """Do as the first says until the training is over, or to begin anew; which of the two."""
    while True:
        order, factor = member.heard()
        if order is Order.STEP:
            run.engine.set_factor(factor)
            run.engine.gradients(run.batches)
            run.engine.apply()
        elif order is Order.MEASURE:
            run.engine.evaluate()
        elif order is Order.STATE:
            take_part(run, member)
        elif order is Order.RESTORE:
            with suppress(Unfit):  # it fits none then: the first begins anew
                restore_together(run, member, Snapshot(*member.receive(through=through(run, member))))
        else:
            return order
