"""The key of a training state: a hash of everything that determined it. `docs/states.md` says how to recompute one.

The key after step n is SHA-256 of the header (canonical JSON: task, optimizer, clips, seed, precision, device, code)
and of one record for each of the n steps: the rate as a little-endian float64, then a byte that is 1 where the network
was measured after the step. Runs that begin alike have the same keys as long as they are alike, and no longer.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from lrtune.analysis.prefixes import Course
from lrtune.schedules import Curve
from lrtune.wire.job import TaskSpec, Training
from lrtune.wire.results import Trial
from worker import determinism, digest, parallel

FORMAT = 1  # of the key and of the file; another number is another worker's business
ENGINE = (  # what turns rates into weights
    "worker.trainer",
    "worker.run",
    "worker.stage",
    "worker.cohort",
    "worker.stacked",
    "worker.determinism",
    "worker.engine",
    "worker.parallel",
    "worker.sharded",
    "worker.batches",
    "worker.losses",
    "worker.optimizers",
    "worker.snapshot",
)
RECORD = np.dtype([("rate", "<f8"), ("measured", "u1")])  # packed: nine bytes a step
CHUNK = 65_536  # steps whose records are in memory at once


def header(
    task: TaskSpec,
    task_digest: str,
    trial: Trial,
    training: Training,
    device: torch.device,
    *,
    owner: str,
    where: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run is beside its rates; `where` it is trained as `place` has it, if not on devices of this host.

    What is compiled each worker measures for itself, so it stays its `owner`'s.
    """
    configuration = trial.configuration
    return {
        "format": FORMAT,
        "engine": digest.code(ENGINE),
        "task": {"name": task.name, "params": task.params, "digest": task_digest},
        "optimizer": configuration.optimizer.as_dict(),
        "clip_norm": configuration.clip_norm,
        "clip_value": configuration.clip_value,
        "peak": configuration.learning_rate,
        "seed": trial.seed,
        "training": _as_trained(training, device),
        "owner": owner if training.compile == "auto" else None,
        "device": where or place(device, training.devices),
    }


def _as_trained(training: Training, device: torch.device) -> dict[str, Any]:
    """A job's training with the determinism that it comes to here; exact goes without saying."""
    mode = determinism.mode_of(training, device)
    return training.model_copy(update={"determinism": None if mode == "exact" else mode}).model_dump(mode="json")


def place(device: torch.device, count: int = 1) -> dict[str, Any]:
    """What of the devices and their libraries decides about the bits. Raises TaskError where there are not so many."""
    here = {"kind": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        names = [torch.cuda.get_device_name(one) for one in parallel.devices(device, count)]
        return here | {"name": ", ".join(names), "cuda": torch.version.cuda}
    return here | {"kernels": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


class Keys:
    """The keys of one run. Each goes on from the one before it, as long as the rates stay what they were."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = hashlib.sha256(json.dumps(head, sort_keys=True, separators=(",", ":")).encode())
        self.namespace = self._head.hexdigest()
        self._of: tuple[Curve, int] | None = None
        self._hashed = {0: self._head}

    def at(self, course: Course, steps: Iterable[int]) -> dict[int, str]:
        """The key after each of these steps."""
        if self._of != (course.curve, course.horizon):
            self._of, self._hashed = (course.curve, course.horizon), {0: self._head}
        for step in sorted({*steps} - {*self._hashed}):
            done = max(known for known in self._hashed if known < step)
            running = self._hashed[done].copy()
            for first in range(done, step, CHUNK):
                running.update(records(course, first, min(first + CHUNK, step)))
            self._hashed[step] = running
        return {step: self._hashed[step].hexdigest() for step in steps}


def records(course: Course, first: int, last: int) -> bytes:
    """What is hashed of the steps from `first` (counted from 0) up to `last`."""
    found = np.zeros(last - first, dtype=RECORD)
    found["rate"] = course.rates(first, last - first)
    found["measured"][[point - first - 1 for point in course.points if first < point <= last]] = 1
    return found.tobytes()
