"""What keeping states costs a run: `python -m benchmarks.saving [--repeats N] [--only TASK] [--json FILE]`.

The built-in tasks at their usual horizons (segments of a twentieth), trained without and with states in turn; constant
rates, so that every boundary is kept. `seconds` are of the wall clock, the best of the repeats; `processor` the same in
processor time, the writing thread's included, which a busy machine disturbs less.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.shared_tasks import tasks
from lrtune.choices import Configuration
from lrtune.results import Trial, TrialState
from lrtune.spec import Metric, TaskSpec, Training
from worker.digest import task_digest
from worker.memory import Memory
from worker.recipe import Keys, header
from worker.states import Store
from worker.tasks import prepare
from worker.trainer import train

CPU = torch.device("cpu")
LOSS = Metric(name="val_loss", goal="minimize")


def main() -> None:
    """Print the cost for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
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


def measured(spec: TaskSpec, steps: int, folder: Path, repeats: int) -> dict[str, float]:
    """The relative cost of states for one task."""
    best: dict[bool, list[float]] = {True: [float("inf")] * 2, False: [float("inf")] * 2}
    for number in range(repeats):
        for keeps in (False, True):
            before = time.perf_counter(), time.process_time()
            run(spec, steps, folder, number, keeps=keeps)
            took = time.perf_counter() - before[0], time.process_time() - before[1]
            best[keeps] = [min(pair) for pair in zip(best[keeps], took, strict=True)]
    shares = [with_states / without - 1 for with_states, without in zip(best[True], best[False], strict=True)]
    return {"seconds": shares[0], "processor": shares[1]}


def run(spec: TaskSpec, steps: int, folder: Path, number: int, *, keeps: bool) -> None:
    """One trial, from its first step."""
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
    memory = Memory(store, keys, owner=f"job/{number}", metric=LOSS, say=print, on_start=print) if keeps else None
    train(
        task,
        trial,
        metric=LOSS,
        device=CPU,
        on_report=lambda _: None,
        should_stop=lambda: None,
        memory=memory,
    )
    if memory:
        memory.close()


if __name__ == "__main__":
    main()
