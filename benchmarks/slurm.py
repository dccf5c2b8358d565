"""A stand-in for SLURM on one machine, for `benchmarks.accidents` and the tests: what a batch script sees of it.

An array of tasks, each a shell with the script; `srun` and `scontrol requeue`; and the signals: a preempted task's step
gets SIGTERM, everything SIGKILL when the grace is over, and the task comes back (sbatch's manual, `--requeue`); near
the time limit the script alone gets the signal that it asked for (`--signal=B:TERM@120`).
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

SRUN = '#!/bin/sh\nexec "$@"\n'
SCONTROL = '#!/bin/sh\ntest "$1" = requeue && touch "$SLURM_STANDIN/requeued-${2#*_}"\n'


class Task:
    """One task of an array, through all its lives. `log` is what they printed."""

    def __init__(self, array: "Array", number: int) -> None:
        self._array, self.number, self.restarts = array, number, 0
        self.log = array.folder / f"task-{number}.log"
        self.process = self._started()

    def _started(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["bash", str(self._array.script), *self._array.arguments],
                cwd=self._array.folder,
                env=self._array.environment
                | {"SLURM_ARRAY_TASK_ID": str(self.number), "SLURM_RESTART_COUNT": str(self.restarts)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def preempt(self, grace: float) -> None:
        """SIGTERM to the step, SIGKILL to all that is left after so many seconds, and back into the queue."""
        shell = psutil.Process(self.process.pid)
        _signal(shell.children(recursive=True), signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        self.kill()
        self._again()

    def kill(self) -> None:
        """What a node that dies does."""
        with suppress(psutil.NoSuchProcess):
            shell = psutil.Process(self.process.pid)
            _signal([*shell.children(recursive=True), shell], signal.SIGKILL)
        self.process.wait()

    def near_its_limit(self) -> None:
        """The signal that the script has asked for, to the script alone."""
        self.process.send_signal(getattr(signal, f"SIG{self._array.signal}"))

    def wait(self) -> int:
        """The exit status of its last life."""
        while True:
            status = self.process.wait()
            asked = self._array.folder / f"requeued-{self.number}"
            if not asked.exists():
                return status
            asked.unlink()
            self._again()

    def _again(self) -> None:
        assert self._array.requeue, "the script does not say --requeue"
        self.restarts += 1
        self.process = self._started()


class Array:
    """What `sbatch SCRIPT ARGUMENTS...` starts in a folder. `tasks` is the size of the array, if not its own."""

    def __init__(self, script: Path, *arguments: str, folder: Path, tasks: int | None = None) -> None:
        self.script, self.arguments, self.folder = script.absolute(), arguments, folder
        asked = dict(_asked(script))
        self.requeue, self.signal = "requeue" in asked, asked["signal"].removeprefix("B:").partition("@")[0]
        tools = folder / "slurm"
        tools.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = os.environ | {"PATH": path, "SLURM_ARRAY_JOB_ID": "7", "SLURM_STANDIN": str(folder)}
        first, last = (int(one) for one in asked["array"].split("-"))
        self.tasks = [Task(self, number) for number in range(tasks or last - first + 1)]

    def wait(self) -> list[int]:
        """The exit status of each task, when all are over."""
        return [task.wait() for task in self.tasks]


def _asked(script: Path) -> Iterator[tuple[str, str]]:
    for line in script.read_text().splitlines():
        if found := re.fullmatch(r"#SBATCH --([\w-]+)(?:=(\S+))?", line):
            yield found[1], found[2] or ""


def _signal(processes: list[psutil.Process], number: int) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(number)
