"""Where a framework's own checkpoint of a trial goes."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

log = logging.getLogger("lrtune.loop")


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
            self._begin_again()
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
