"""What keeping states costs a run: `python -m benchmarks.saving [--repeats N] [--only TASK] [--json FILE]`.

The built-in tasks at their usual horizons (segments of a twentieth) and constant rates, so that every boundary is kept.
Every other boundary of a run is kept and every other is not, and what is compared is the time from a boundary to the
next after the ones and after the others, over all repeats: the fastest tenth, `quiet`, and the median, `usual`. A busy
machine disturbs the first much less.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.shared_tasks import tasks
from lrtune.analysis.prefixes import Course
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Metric, TaskSpec, Training
from lrtune.wire.results import Trial, TrialState
from worker.cache_key import Keys, header
from worker.checkpoint_cache import CheckpointCache
from worker.digest import task_digest
from worker.run import LiveRun
from worker.states import Store
from worker.tasks import prepare
from worker.trainer import train

CPU = torch.device("cpu")
LOSS = Metric(name="val_loss", goal="minimize")
QUANTILES = {"quiet": 0.1, "usual": 0.5}


def main() -> None:
    """Print the cost for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", help="one task")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, one in tasks(Path(folder)).items():
            if asked.only in (None, name):
                found[name] = row = measured(*one, Path(folder), asked.repeats)
                print(f"{name:10} {one[1]} steps", *(f"{key} {row[key]:+.1%}" for key in row), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found))


class Alternating(CheckpointCache):
    """Keeps every other boundary, and notes when each was reached."""

    def __init__(self, *args: Any, first: bool, **named: Any) -> None:
        super().__init__(*args, **named)
        self.keeps, self.reached = first, list[float]()

    def keep(self, run: LiveRun, course: Course) -> None:
        """Keep one, and not the next."""
        self.reached.append(time.perf_counter())
        if self.keeps:
            super().keep(run, course)
        self.keeps = not self.keeps


def measured(spec: TaskSpec, steps: int, folder: Path, repeats: int) -> dict[str, float]:
    """The relative cost of states for one task."""
    runs = [run(spec, steps, folder, number) for number in range(repeats)]
    with_state, without = (np.concatenate(segments) for segments in zip(*runs, strict=True))
    return {name: float(np.quantile(with_state, q) / np.quantile(without, q) - 1) for name, q in QUANTILES.items()}


def run(spec: TaskSpec, steps: int, folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The seconds of one trial's segments: those that begin with keeping a state, and the others."""
    task = prepare(spec, folder)
    chosen = {"optimizer": {"name": "adamw"}, "learning_rate": 1e-3, "schedule": {"family": "constant"}}
    configuration = Configuration.model_validate({**chosen, "clip_norm": 1.0})
    trial = Trial(
        number=number,
        role="search",
        state=TrialState.RUNNING,
        configuration=configuration,
        seed=number,
        horizon=steps,
    )
    store = Store(str(folder / "states"), budget=2**32)
    keys = Keys(header(spec, task_digest(task), trial, Training(), CPU, owner=f"job/{number}"))
    first = number % 2 == 0
    cache = Alternating(
        store, keys, owner=f"job/{number}", metric=LOSS, say=print, on_start=lambda _: None, first=first
    )
    train(
        task,
        trial,
        metric=LOSS,
        device=CPU,
        on_report=lambda _: None,
        should_stop=lambda: None,
        cache=cache,
    )
    cache.close()
    took = np.diff(cache.reached)
    return took[1 - first :: 2], took[int(first) :: 2]


if __name__ == "__main__":
    main()
