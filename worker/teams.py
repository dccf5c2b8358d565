"""Where a trial over several devices finds the others: on this host, where they are processes of this worker's own."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lrtune.command import Running
from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.job import AdmittedJob, TaskSpec, Training
from lrtune.wire.results import Trial
from worker import cache_key
from worker.parallel import Member, Team
from worker.places import Asked, Place, free_port, together
from worker.settings import Settings
from worker.tasks import own, prepare
from worker.trainer import follow


class Here:
    """The devices of this host."""

    nodes = 1  # places that are nodes to a command

    def __init__(self, settings: Settings) -> None:
        self.settings, self.own = settings, own.find(settings.tasks)

    def ready(self) -> bool:
        """Whether a trial may be claimed; where the others are elsewhere, once they are there."""
        return True

    def count(self, device: torch.device) -> int:
        """For how many devices there is room."""
        return torch.cuda.device_count() if device.type == "cuda" else 1

    def place(self, device: torch.device, count: int) -> dict[str, Any]:
        """What of so many devices decides about the bits. Raises TaskError where there are not so many."""
        return cache_key.place(device, count)

    def team(self, spec: AdmittedJob, trial: Trial, device: torch.device) -> AbstractContextManager[Member]:
        """The devices that a trial asks for, this process the first of them."""
        following = partial(_followed, spec.task, spec.training, trial, self.settings.data_dir, self.own)
        return Team(spec.training.devices, device, following)

    def launched(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        directory: Path | None,
        written: Mapping[str, Any],
        *,
        nodes: int,
        processes: int,
    ) -> AbstractContextManager[Running]:
        """A command as so many processes at each of so many places. Raises OSError where it cannot be started."""
        meeting = self._address(), free_port()
        asked = Asked(words, environment, directory, written, nodes, processes, meeting)
        return together(asked, self._elsewhere)

    def _address(self) -> str:
        """Of this host, as the processes of a command know it."""
        return "127.0.0.1"

    def _elsewhere(self, asked: Asked, node: int) -> Place:
        """The processes of a command at another place."""
        raise TaskError(f"nodes: found {asked.nodes}; this worker has one (number {node + 1} is missing)")


def _followed(
    task: TaskSpec, training: Training, trial: Trial, data_dir: Path, own: Mapping[str, type[Task]], member: Member
) -> None:
    """What a process on another device does."""
    follow(prepare(task, data_dir, own), trial, training, member)
