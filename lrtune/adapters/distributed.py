"""One trial trained by several processes, as `torchrun` and `accelerate launch` start them.

`for trial in together(job.trials()): ...`: the first process takes the trials and speaks with the service, the others
train the same ones with it. All make the same calls at the same steps, and what the first one measured counts.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import distributed

from lrtune.adapters.team import Team
from lrtune.adapters.trial import TrialLike


def together(trials: Iterable[Any]) -> Iterator[Any]:
    """The first process's trials on every process of torch.distributed; what the others give is not looked at.

    Without other processes they are the trials themselves. A process group is made where the script has none yet.
    """
    if _processes() == 1:
        yield from trials
        return
    if not distributed.is_initialized():
        distributed.init_process_group()
    team, held, taken = Team(), iter(trials), list[Any]()

    def take() -> Callable[..., Iterator[Any]] | None:
        taken[:] = [one for one in [next(held, None)] if one is not None]
        beside: Callable[..., Iterator[Any]] | None = taken[0].join(team) if taken else None
        return beside

    while (beside := team.first(take)) is not None:
        yield from taken or beside(team=team)


def require_one_trial(trial: TrialLike) -> None:
    """Raise where the processes that train one model do not train one trial from one step, or see two folders.

    ValueError for several trials or beginnings, LrtuneError for the folders.
    """
    if _processes() == 1 or not distributed.is_initialized():
        return
    mine = (getattr(trial, "key", None), trial.steps, trial.configuration.model_dump(mode="json"))
    all_of_them: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(all_of_them, (mine, trial.start))
    if any(other != mine for other, _ in all_of_them):
        found = f"found {len(all_of_them)} processes that train one model, each with a trial of its own"
        raise ValueError(f"{found}; write `for trial in lrtune.adapters.distributed.together(job.trials())`")
    if len({start for _, start in all_of_them}) > 1:
        found = ", ".join(str(start) for _, start in all_of_them)
        raise ValueError(f"found processes that begin after steps {found}; accepted is that all read one checkpoint")
    trial.require_one_folder()


def _processes() -> int:
    if not distributed.is_available():
        return 1
    if distributed.is_initialized():
        return int(distributed.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))
