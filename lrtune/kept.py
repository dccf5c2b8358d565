"""What a trial is in torch, and where a framework's own checkpoint of it goes."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

log = logging.getLogger("lrtune.loop")


class Torch:
    """What a trial is in torch."""

    def scheduler(self: Any, optimizer: Any, *, step: int = 0) -> Any:
        """Torch's LambdaLR over an optimizer whose rates become the trial's; groups keep their ratios to the first.

        It goes by the optimizer's own updates; `step` says how many were made before. Raises ValueError for another
        optimizer than the configuration's.
        """
        from lrtune.adapters import pytorch

        return pytorch.scheduler(self, optimizer, step=step)

    def optimizer(self: Any, parameters: Any) -> Any:
        """Torch's optimizer of the configuration, with its knobs, over these parameters."""
        from lrtune.adapters import pytorch

        return pytorch.optimizer(self, parameters)


class Kept:
    """The directory that a framework's own checkpoint of a trial lies in."""

    _other_keeper: Any = None

    @cached_property
    def checkpoint_path(self: Any) -> str | None:
        """The directory that this trial goes on from; None where it begins, also as what was kept cannot be read."""
        from lrtune.adapters.folder import Broken, Folder

        if self.checkpoint is None or self._folder is None:
            return None
        try:
            return str(Folder(self._folder).directory(self.checkpoint))
        except Broken as error:
            log.warning("trial %s begins again: %s", self.number, error)
            self.start = 0
            vars(self)["_began"] = 0
            self._tell()
            return None

    @property
    def in_stages(self: Any) -> bool:
        """Whether it may have to pause: it was taken with a folder for checkpoints."""
        return self._folder is not None

    def keep_with(self: Any, keeper: Any) -> None:
        """Let another one keep this trial where it pauses, and the place in `batches`: an adapter's."""
        self._keeper = self._other_keeper = keeper

    def keep(self: Any, step: int, fill: Callable[[Path], object]) -> None:
        """End the stage after so many steps with what `fill` puts into a directory. Raises LrtuneError."""
        from lrtune.adapters.folder import Folder

        if self._folder is None:
            self.give_back(self._interrupted)
        elif not self.over:
            self.paused(Folder(self._folder).write_directory(self.number, step, fill), step)
