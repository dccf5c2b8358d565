"""The training losses of one run: averaged for each report, and watched for divergence whatever the pruner."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

WINDOW = 10  # steps whose median loss is compared with the first loss: one odd batch is no divergence
# On a GPU losses travel so many at a time, and are read when the next ones leave: nobody waits for them.
SYNC_STEPS = 10


class Coming:
    """Losses of some steps on their way from the device, which goes on meanwhile."""

    def __init__(self, unread: Sequence[tuple[int, float, Tensor]]) -> None:
        self._steps = [(step, rate) for step, rate, _ in unread]
        self._event: torch.cuda.Event | None = None
        losses = [loss for _, _, loss in unread]
        self._values = losses[0] if len(losses) == 1 else torch.stack(losses)
        if self._values.is_cuda:
            here = torch.empty(self._values.shape, dtype=self._values.dtype, pin_memory=True)
            self._values = here.copy_(self._values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def arrived(self) -> list[tuple[int, float, float]]:
        """Each step with its rate and its loss."""
        if self._event is not None:
            self._event.synchronize()
        values = self._values.tolist() if self._values.dim() else [self._values.item()]
        return [(step, rate, value) for (step, rate), value in zip(self._steps, values, strict=True)]


class Losses:
    """The training losses: read from the device now and then, watched for divergence, averaged for each report."""

    def __init__(self, device: torch.device) -> None:
        self._wait = 1 if device.type == "cpu" else SYNC_STEPS
        self._unread: list[tuple[int, float, Tensor]] = []
        self._coming: Coming | None = None
        self._since_report: list[float] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None

    def add(self, step: int, rate: float, loss: Tensor) -> str | None:
        """Take the loss of a step; answers why the run has diverged, once that is seen."""
        self._unread.append((step, rate, loss.detach()))
        if len(self._unread) < self._wait:
            return None
        return self.read() if self._wait == 1 else self._fetch()

    def mean(self) -> tuple[float, str | None]:
        """The mean since the last report, and why the run has diverged, if it has."""
        trouble = self.read()
        values, self._since_report = self._since_report, []
        return fmean(values), trouble

    def read(self) -> str | None:
        """Read what is still on the device; answers why the run has diverged, if it has."""
        return (self._fetch() or self._fetch()) if self._unread else self._fetch()

    def _fetch(self) -> str | None:
        """Send for what is unread, and hear what was sent for the time before."""
        coming, self._coming = self._coming, Coming(self._unread) if self._unread else None
        self._unread = []
        return self.heard(coming.arrived()) if coming else None

    def heard(self, read: Sequence[tuple[int, float, float]]) -> str | None:
        """Take the losses of steps at their rates that have been read; why the run has diverged, if it has."""
        self._since_report += [value for _, _, value in read]
        return next(filter(None, (self._trouble(step, rate, value) for step, rate, value in read)), None)

    def notes(self) -> dict[str, Any]:
        """What has been read so far, for a state."""
        return {"since_report": list(self._since_report), "recent": list(self._recent), "first": self._first}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Go on from the notes of a state."""
        self._since_report, self._first = list(notes["since_report"]), notes["first"]
        self._recent = deque(notes["recent"], maxlen=WINDOW)

    def _trouble(self, step: int, rate: float, value: float) -> str | None:
        if not math.isfinite(value):
            return f"training loss became {value} {_where(step, rate)}"
        if self._first is None:
            self._first = value
        self._recent.append(value)
        # ten times the first loss plus one, written so that it also holds for a loss below zero
        most = self._first + 9 * abs(self._first) + 1
        if len(self._recent) == WINDOW and max(self._recent) > most and (now := median(self._recent)) > most:
            return f"training loss rose from {self._first:.3g} to {now:.3g} {_where(step, rate)}"
        return None


def _where(step: int, rate: float) -> str:
    return f"at step {step} (learning rate {rate:.3g})"
