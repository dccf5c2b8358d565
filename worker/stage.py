"""One stage of a run: what is due between two steps. Whoever makes the steps, alone or in a cohort, asks it."""

from collections.abc import Callable
from dataclasses import dataclass

from lrtune.analysis.prefixes import Course
from lrtune.wire.job import Metric, usable
from lrtune.wire.results import Report, TrialState
from worker.checkpoint_cache import CheckpointCache
from worker.run import LiveRun


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended: the trial's state, its last value, why in words, and how many steps it took."""

    state: TrialState
    value: float | None
    reason: str
    step: int
    traceback: str = ""  # of a task that raised something: the frames of whoever wrote it


class Stage:
    """A run on its way to where its stage ends; `course` is what the reports so far have made of its rates."""

    def __init__(
        self,
        run: LiveRun,
        course: Course,
        metric: Metric,
        on_report: Callable[[Report], str | None],
        cache: CheckpointCache | None = None,
    ) -> None:
        self.run, self._metric, self._on_report, self._cache = run, metric, on_report, cache
        self.course = course.after(self._seen())

    def begun(self) -> Outcome | None:
        """The end of a stage of which so much is known already that there is nothing to train."""
        ended = next(filter(None, map(self._judged, self.run.reports)), None)
        return ended or (self._as_planned() if self.run.step >= self.course.end else None)

    def due(self) -> int:
        """The next step after which something is to be done."""
        return min(one for one in self.course.points | self.course.boundaries if one > self.run.step)

    def reached(self) -> Outcome | None:
        """Measure and keep what is due after the step that was made; the end of the stage, if it has come."""
        run, ended = self.run, None
        if run.step in self.course.points:
            mean, diverged = run.losses.mean()
            if diverged:
                return self.diverged(diverged)
            ended = self._judged(self._measured(mean))
            if ended and ended.state is TrialState.DIVERGED:
                return ended
            self.course = self.course.after(self._seen())
        elif run.step in self.course.boundaries and (diverged := run.losses.read()):
            return self.diverged(diverged)
        if self._cache and run.step in self.course.boundaries:
            self._cache.keep(run, self.course)  # of a run that is stopped too: the search may go on with it
        return ended or (self._as_planned() if run.step >= self.course.end else None)

    def diverged(self, why: str) -> Outcome:
        """The end of a run whose losses say so."""
        return Outcome(TrialState.DIVERGED, None, why, self.run.step)

    def _measured(self, mean: float) -> Report:
        run = self.run
        measured = {**run.engine.evaluate(), "train_loss": mean}
        metrics = {name: value if usable(value) else None for name, value in measured.items()}
        run.reports.append(Report(step=run.step, learning_rate=self.course.rate(run.step - 1), metrics=metrics))
        return run.reports[-1]

    def _judged(self, report: Report) -> Outcome | None:
        """The end of a trial that this report brings, if it does."""
        stop, value, name = self._on_report(report), report.metrics[self._metric.name], self._metric.name
        if value is None:
            reason = f"{name} was not finite at step {report.step} (learning rate {report.learning_rate:.3g})"
            return Outcome(TrialState.DIVERGED, None, reason, report.step)
        early = stop and report.step < self.course.end
        return Outcome(TrialState.STOPPED, value, stop or "", report.step) if early else None

    def _as_planned(self) -> Outcome:
        value = self.run.reports[-1].metrics[self._metric.name] if self.run.reports else None
        end, horizon = self.course.end, self.course.horizon
        if end < horizon:
            return Outcome(TrialState.PAUSED, value, f"trained until step {end} of {horizon}, as planned", end)
        return Outcome(TrialState.COMPLETE, value, "", horizon)

    def _seen(self) -> list[tuple[int, float | None]]:
        """The metric at every report so far."""
        return [(report.step, report.metrics[self._metric.name]) for report in self.run.reports]
