"""The processes that train one trial together, as `torchrun` and `accelerate launch` start them, or this one alone."""

import atexit
import os
import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from lrtune import errors

T = TypeVar("T")


class Team:
    """Processes that speak to each other through torch.distributed, once the script has made a group of them.

    What differs from process to process would part them: the first one decides, and the others hear it.
    """

    @property
    def rank(self) -> int:
        """The place of this process."""
        return int(os.environ.get("RANK") or 0)

    @property
    def size(self) -> int:
        """How many there are, as far as they can speak to each other."""
        found = self._distributed
        return int(found.get_world_size()) if found else 1

    def first(self, call: Callable[[], T]) -> T:
        """What the first process's call answers, in all of them. Raises in all what that raises, in words."""
        failure: Exception | None = None
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = call()
            except Exception as error:  # raised below, in all
                failure, box[1] = error, f"{type(error).__name__}: {error}"
        if self.size > 1:
            self._distributed.broadcast_object_list(box, src=0, group=self._group)
        if box[1]:
            raise failure or errors.LrtuneError(box[1])
        found: T = box[0]
        return found

    def gathered(self, value: Any) -> list[Any]:
        """Everybody's values, in all of them."""
        found = [value] * self.size
        if self.size > 1:
            self._distributed.all_gather_object(found, value, group=self._group)
        return found

    @cached_property
    def _group(self) -> Any:
        """Processes that talk without their devices, made when all of them first have something to say."""
        atexit.register(_leave)
        return self._distributed.new_group(backend="gloo")

    @property
    def _distributed(self) -> Any:
        return _initialized()


def _initialized() -> Any:
    """torch.distributed, where the script has initialised it."""
    torch = sys.modules.get("torch")
    found = torch and torch.distributed
    return found if found and found.is_available() and found.is_initialized() else None


def _leave() -> None:
    """End the process groups with the process: left to torch, gloo's threads now and then abort it at its very end."""
    if found := _initialized():
        found.destroy_process_group()
