"""Accelerate: `start = restore(trial, accelerator)` after `accelerator.prepare(...)`, in place of `trial.restore(...)`.
A scheduler comes after it: `trial.scheduler(optimizer, step=start)`.

What a trial is kept in is what `accelerator.save_state` saves: models, optimizers, schedulers and scaler that were
prepared, what was registered for checkpointing, and the random generators. The loader's place is kept where the
training draws from `trial.batches(loader)`. `trial.report` saves where the trial pauses, in all processes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from lrtune.adapters.checkpoints import Batches, generators, set_generators
from lrtune.adapters.distributed import require_one_trial

B = TypeVar("B")
OURS = "lrtune-{}.pt"  # a process's random generators, and its place in the loader


def restore(trial: Any, accelerator: Accelerator) -> int:
    """Load what the trial goes on from, and answer with the steps that it has had, 0 at first. In all processes.

    Raises ValueError for several trials, or beginnings, in the processes of one run, LrtuneError for several folders.
    """
    path = trial.checkpoint_path
    require_one_trial(trial)
    kept = Keeper(trial, accelerator)
    trial.keep_with(kept)
    if path is not None:
        kept.read(Path(path))
    return int(trial.start)


class Keeper:
    """Saves and loads an accelerator's state in a trial's directory."""

    def __init__(self, trial: Any, accelerator: Accelerator) -> None:
        self._trial, self._accelerator = trial, accelerator
        self._batches: Batches[Any] | None = None
        self._state: dict[str, Any] = {}

    def batches(self, loader: Iterable[B]) -> Batches[B]:
        """Batches from the place that was kept, and to be kept."""
        made = self._batches = Batches(loader)
        if self._state:
            made.load_state_dict(self._state["batches"])
            set_generators(self._state["generators"])
        return made

    def read(self, path: Path) -> None:
        """Bring everything that was prepared to what lies there."""
        self._accelerator.load_state(str(path))
        self._state = torch.load(path / self._ours, map_location="cpu", weights_only=True)
        set_generators(self._state["generators"])

    def keep(self, step: int) -> None:
        """End the stage, and keep everything that was prepared."""
        self._trial.keep(step, self._fill)

    @property
    def _ours(self) -> str:
        return OURS.format(self._accelerator.process_index)

    def _fill(self, path: Path) -> None:
        state = {"generators": generators(), "batches": self._batches.state_dict() if self._batches else {"begun": {}}}
        self._accelerator.save_state(str(path))
        torch.save(state | {"batches": {"epoch": 0, "place": 0} | state["batches"]}, path / self._ours)
