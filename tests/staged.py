"""A trial trained in one piece, or in stages that each begin with nothing but the checkpoint of the one before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrtune.loop import LoopTrial
from lrtune.wire.external import Batch, Ending, Verdict
from lrtune.wire.results import Trial, TrialState
from tests.offline import ADAMW, STEPS, Door, handout


class Pausing(Door):
    """Says pause at the end of a stage, and hears where a training began."""

    began: int | None = None

    def tell(self, job_id: str, number: int, batch: Batch) -> Verdict:
        self.began = self.began if batch.start is None else batch.start
        self.sent += batch.reports
        end = self.held.until < self.held.trial.horizon and any(one.step == self.held.until for one in self.sent)
        said, why = ("pause", "as planned") if end else ("continue", "")
        return Verdict(decision=said, reason=why, state=TrialState.RUNNING, step=0)

    def finish(self, job_id: str, number: int, ending: Ending) -> Trial:
        self.end = ending
        return self.held.trial


def stage(folder: Path, start: int, until: int, checkpoint: str | None, steps: int = STEPS, **more: Any) -> LoopTrial:
    asked = {"start": start, "until": until, "checkpoint": checkpoint}
    found = handout(ADAMW, steps, more.get("metric", "val_loss"), more.get("role", "search")).model_copy(update=asked)
    return LoopTrial(Pausing(found), "job", found, folder=folder)


def range_test(folder: Path, steps: int, **more: Any) -> LoopTrial:
    """A trial that is shorter than its job's runs."""
    return stage(folder, 0, steps, None, steps, role="range-test", **more)


def in_stages(folder: Path, train: Callable[[LoopTrial], list[Any]], ends: list[int], **more: Any) -> list[Any]:
    """What `train` answers over the stages; each is paused where it should be."""
    found, checkpoint, start = list[Any](), None, 0
    for end in ends:
        trial = stage(folder, start, end, checkpoint, **more)
        found += train(trial)
        ended = trial._door.end  # type: ignore[attr-defined]
        if end < trial.steps:
            assert (ended.state, ended.step, trial.reason) == ("paused", end, "as planned")
            checkpoint, start = ended.checkpoint, end
    return found
