"""One trial trained by several processes, as `torchrun` and `accelerate launch` start them.

`for trial in together(job.trials()): ...`: the first process takes the trials and speaks with the service, the others
train the same ones with it. All call `report` at the same steps, and what the first one measured counts.
"""

import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from torch import distributed

from lrtune.adapters.team import Team
from lrtune.adapters.trial import TrialLike, Whole


def together(trials: Iterable[Any]) -> Iterator[Any]:
    """The first process's trials on every process of torch.distributed; what the others give is not looked at.

    Without other processes they are the trials themselves. A process group is made where the script has none yet.
    """
    if _processes() == 1:
        yield from trials
        return
    if not distributed.is_initialized():
        distributed.init_process_group()
    team, held = Team(), iter(trials) if distributed.get_rank() == 0 else None
    while (trial := _next(held, team)) is not None:
        yield trial


def require_one_trial(trial: TrialLike) -> None:
    """Raise ValueError where the processes that train one model hold different trials."""
    if _processes() == 1 or not distributed.is_initialized():
        return
    mine = (getattr(trial, "key", None), trial.steps, trial.configuration.model_dump(mode="json"))
    all_of_them: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(all_of_them, mine)
    if any(other != mine for other in all_of_them):
        found = f"found {len(all_of_them)} processes that train one model, each with a trial of its own"
        raise ValueError(f"{found}; write `for trial in lrtune.adapters.distributed.together(job.trials())`")


class SharedTrial(Whole):
    """A trial as each of the processes sees it; the first one holds the real one."""

    def __init__(self, said: dict[str, Any], held: Any, team: Team) -> None:
        self.key, self.number, self.seed, self.steps = said["key"], said["key"][1], said["seed"], said["steps"]
        self.configuration, self.metric = said["configuration"], said["metric"]
        self.over, self.reason = False, ""
        self._held, self._team, self.until = held, team, self.steps
        self._factor = said["curve"].over(self.steps)

    def factor(self, step: int) -> float:
        """The factor of the peak rate at a step, counted from 0."""
        return float(self._factor(step))

    def learning_rate(self, step: int = 0) -> float:
        """The learning rate of a step, counted from 0."""
        return float(self.configuration.learning_rate) * self.factor(step)

    def report(self, step: int, **metrics: float) -> bool:
        """Metrics after `step` updates, on every process; True says that the training should stop now."""
        self.over, self.reason, curve = self._team.first(lambda: self._reported(step, metrics))
        self._factor = curve.over(self.steps)
        return self.over

    def _reported(self, step: int, metrics: dict[str, float]) -> tuple[bool, str, Any]:
        self._held.report(step, **metrics)
        return self._held.over, self._held.reason, self._held.curve

    def finish(self, value: float | None = None) -> None:
        """The run is done; `value` is the metric at its end, the last report's when left out."""
        if self._held is not None:
            self._held.finish(value)

    def fail(self, reason: str) -> None:
        """The run broke, for a reason that has nothing to do with its learning rates."""
        if self._held is not None:
            self._held.fail(reason)

    def __enter__(self) -> Self:
        if self._held is not None:
            self._held.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._held is not None:
            self._held.__exit__(kind, error, at)


def _next(held: Iterator[Any] | None, team: Team) -> SharedTrial | None:
    taken: list[Any] = []

    def take() -> dict[str, Any] | None:
        taken.extend(one for one in [next(held, None) if held is not None else None] if one is not None)
        if not taken:
            return None
        trial = taken[0]
        return {name: getattr(trial, name) for name in ("key", "seed", "steps", "metric", "configuration", "curve")}

    said = team.first(take)
    return None if said is None else SharedTrial(said, taken[0] if taken else None, team)


def _processes() -> int:
    if not distributed.is_available():
        return 1
    if distributed.is_initialized():
        return int(distributed.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))
