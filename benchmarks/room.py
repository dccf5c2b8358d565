"""Whether states keep to their budget: `python -m benchmarks.room [--trials 1000] [--room BYTES] [--json FILE]`.

A job of so many short trials, random ones over every family, is brought to its end by the worker's own code, whose
states would take far more room than they may. All the while the folder is measured: `most` is the largest size seen,
half-written files included, and `written` what all states came to.
"""

import argparse
import json
import tempfile
import threading
from pathlib import Path

import torch

from benchmarks.sharing import ended
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import TrialState
from worker.states import Store

EVERY = 0.02  # seconds between two looks at the folder


def main() -> None:
    """Run the job, and print what its states took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--room", type=int, default=4_000_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    spec = AdmittedJob.model_validate(
        {
            "task": {"name": "digits", "params": {"hidden": [16]}},
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": 20},
            "search": {"sampler": "random", "pruner": "none"},
            "budget": {"full_runs": None, "trials": asked.trials},
            "confirm": {"top": 0, "seeds": 0},
        }
    )
    written = watched_writing()
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder) / "states")
        history = ended(spec, Path(folder), Path(folder), room=asked.room)
        most = watch.over()
    complete = sum(trial.state is TrialState.COMPLETE for trial in history)
    found = {"trials": len(history), "complete": complete, "room": asked.room, "most": most, "written": sum(written)}
    print({**found, "kept": most <= asked.room})
    if asked.json:
        asked.json.write_text(json.dumps(found))


def watched_writing() -> list[int]:
    """The size of every state that is written from now on."""
    sizes, write = list[int](), Store.write

    def writing(*given, **named):  # type: ignore[no-untyped-def]
        entry = write(*given, **named)
        if entry:
            sizes.append(entry.size)
        return entry

    Store.write = writing  # type: ignore[method-assign]
    return sizes


class Watch:
    """The largest size of a folder, looked at again and again in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._most, self._stop = folder, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def over(self) -> int:
        """Stop looking; the largest size."""
        self._stop.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._stop.wait(EVERY):
            # A file that goes while another comes may be counted beside it: what is seen twice in a row was there.
            self._most = max(self._most, min(self._now(), self._now()))

    def _now(self) -> int:
        return sum(map(_size, self._folder.rglob("*")))


def _size(path: Path) -> int:
    """What a file takes; nothing where it is gone by now."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
