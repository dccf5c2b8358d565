"""The real tasks of `benchmarks.live`: digits, signals for the image network, text, a regression over a table, and a
fine-tuning. None of them needs a download.

With `--data DIR` the files that are there take the place of the made ones: `mnist1d.npz`, `tinyshakespeare/input.txt`.
A new task is a row of `TASKS`.
"""

import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes

from benchmarks.fine_tuning import FineTuning
from lrtune.task import Task
from lrtune.wire.job import TaskSpec
from worker.tasks import prepare

OWN: dict[str, type[Task]] = {"benchmarks.fine_tuning:FineTuning": FineTuning}
CLASSES, LENGTH, TRAIN, TEST = 10, 40, 4000, 1000
CHARACTERS = 400_000


@dataclass(frozen=True)
class Live:
    """A task, how long its real run is, and how its data file is made."""

    name: str
    task: str
    steps: int
    params: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    given: str = ""
    make: Callable[[Path], None] | None = None

    def spec(self) -> dict[str, Any]:
        """The task as a job names it."""
        return {"name": self.task, "params": self.params | ({"dataset": self.file} if self.file else {})}


def signals(path: Path) -> None:
    """Ten shapes of eight random corners each; every example is shifted, stretched, sheared and noisy."""
    random = np.random.default_rng(42)
    corners = random.normal(0, 1, (CLASSES, 8))

    def some(n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        labels = random.integers(0, CLASSES, n)
        at = np.linspace(0, 1, LENGTH)
        rows = []
        for label in labels:
            begin, wide = random.uniform(0, 0.4), random.uniform(0.4, 0.6)
            shape = np.interp((at - begin) / wide, np.linspace(0, 1, 8), corners[label], left=0.0, right=0.0)
            rows.append(shape * random.uniform(0.6, 1.4) + random.normal(0, 0.5) * at + random.normal(0, 0.3, LENGTH))
        return np.array(rows, dtype=np.float32), labels

    (x, y), (x_test, y_test) = some(TRAIN), some(TEST)
    np.savez(path, x=x, y=y, x_test=x_test, y_test=y_test)


def source(path: Path) -> None:
    """Python's own standard library, as text."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in sorted(folder.glob("[a-m]*.py")))
    path.write_text(text.encode("ascii", "ignore").decode()[:CHARACTERS], encoding="utf-8")


def patients(path: Path) -> None:
    """scikit-learn's 442 diabetes patients: ten numbers of each, and how far the disease has gone a year later."""
    load_diabetes(as_frame=True, scaled=False).frame.to_csv(path, index=False)


SMALL_TEXT = {"layers": 1, "heads": 2, "width": 32, "context": 32, "batch_size": 16}
TASKS = {
    one.name: one
    for one in (
        Live("digits", "digits", 480, {"noise": 0.3}),
        Live("signals", "images", 300, {"width": 8, "batch_size": 64}, "signals.npz", "mnist1d.npz", signals),
        Live("text", "text", 300, SMALL_TEXT, "text.txt", "tinyshakespeare/input.txt", source),
        Live("diabetes", "tabular", 300, {"target": "target"}, "diabetes.csv", make=patients),
        Live("fine-tuning", "benchmarks.fine_tuning:FineTuning", 240),
    )
}


def lay_out(folder: Path, given: Path | None) -> None:
    """Put every task's file into a folder: the given one where it is there, else a made one."""
    for one in TASKS.values():
        if one.file is None or one.make is None:
            continue
        there = given / one.given if given and one.given else None
        if there and there.exists():
            shutil.copyfile(there, folder / one.file)
        else:
            one.make(folder / one.file)


def prepared(spec: TaskSpec, folder: Path) -> Task:
    """The task that a job names, built-in or of our own, as a worker prepares it."""
    return prepare(spec, folder, OWN)
