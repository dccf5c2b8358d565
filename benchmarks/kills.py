"""Kill a worker at random moments of one job: `python -m benchmarks.kills [--kills 50] [--seed 0] [--json FILE]`.

The job is run once undisturbed, and once while its worker is killed with SIGKILL again and again, each time a random
share of 0.4 s after it began to train. Prints whether every trial, report and the answer came out the same, and
the most segments (twentieths of a run) that one kill caused to be trained again. Workers are forked, which starts them
at once; a trial is killed four times at most, because the fifth death of its workers would fail it.
"""

import argparse
import json
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import migrations
import worker.loop
import worker.trainer
from benchmarks.sharing import facts
from lrtune.results import Trial
from lrtune.spec import JobSpec
from lrtune.store import Database, events, jobs, trials
from lrtune.store.leases import MAX_ATTEMPTS
from worker.loop import Worker
from worker.settings import Settings

STEPS = 1000
SPEC = JobSpec.model_validate(
    {
        "task": {"name": "digits", "params": {"hidden": [16]}},
        "metric": {"name": "val_loss", "goal": "minimize"},
        "horizon": {"steps": STEPS},
        "schedules": ["constant", "wsd", "cosine"],
        "budget": {"full_runs": None, "trials": 12},
        "confirm": {"top": 1, "seeds": 1},
    }
)
FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Run the job both ways, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        calm = Bench(Path(folder) / "calm")
        calm.run(kills=0, chance=random.Random(asked.seed))
        hurt = Bench(Path(folder) / "hurt")
        kills = hurt.run(kills=asked.kills, chance=random.Random(asked.seed))
        found = {"kills": kills, "identical": calm.facts() == hurt.facts(), **hurt.seen()}
    print(found)
    if asked.json:
        asked.json.write_text(json.dumps(found))


class Bench:
    """One job in a database of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        url = f"sqlite:///{folder / 'lrtune.db'}"
        migrations.upgrade(url)
        settings = Settings(database_url=url, device="cpu", poll_seconds=0.02, lease_seconds=1)
        self._settings = settings.model_copy(update={"state_dir": str(folder / "states")})
        self._url, self._most = url, 0
        self._at = FORK.Array("q", [-1, 0, 0, 0])  # the trial in training, its attempt, first and last step
        database = Database(url)
        with database.write() as tx:
            self.job = jobs.create(tx, SPEC)[0].id
        database.dispose()

    def run(self, *, kills: int, chance: random.Random) -> int:
        """Bring the job to its end; how often its worker was killed."""
        done = 0
        while not self._read(lambda job, _: job.finished_at is not None):
            self._at[0] = -1
            working = FORK.Process(target=work, args=(self._settings, self._at))
            working.start()
            if done < kills and self._trains():
                time.sleep(chance.uniform(0.0, 0.4))
                working.kill()
                done += 1
            while done >= kills and working.is_alive() and not self._read(lambda job, _: job.finished_at is not None):
                time.sleep(0.2)
            working.kill()
            working.join()
            self._most = max(self._most, self._again())
        return done

    def seen(self) -> dict[str, Any]:
        """What the job's log says of the kills."""
        log = self._events()
        wrong = [event.message for event in log if event.kind in ("state-ignored", "state-not-saved")]
        taken = sum(event.kind == "trial-taken-up" for event in log)
        return {"segments_again": round(self._most / (STEPS / 20), 2), "taken_up": taken, "wrong": wrong}

    def facts(self) -> Any:
        """What the job came to."""
        return self._read(facts)

    def _again(self) -> int:
        """Keep where the killed worker stood; how far behind that its successor had begun, once that is known."""
        number, _, first, last = self._at[:]
        before = getattr(self, "_stood", (-1, 0))
        self._stood = (number, last)
        return before[1] - first if number == before[0] and first >= 0 else 0

    def _trains(self) -> bool:
        """Wait until the worker is in the middle of a trial that may be killed once more."""
        while not self._read(lambda job, _: job.finished_at is not None):
            if self._at[0] >= 0 and self._at[1] < MAX_ATTEMPTS:
                return True
            time.sleep(0.01)
        return False

    def _events(self) -> list[Any]:
        database = Database(self._url)
        with database.read() as tx:
            log = events.page(tx, self.job, after=0, limit=10_000).items
        database.dispose()
        return list(log)

    def _read(self, verb: Callable[..., Any]) -> Any:
        """An answer about the job; every connection is closed again, because workers are forked."""
        database = Database(self._url)
        with database.read() as tx:
            found = verb(jobs.get(tx, self.job), trials.history(tx, self.job))
        database.dispose()
        return found


def work(settings: Settings, at: Any) -> None:
    """A worker that says where it stands."""
    torch.set_num_threads(1)
    step, train = worker.trainer._step, vars(worker.loop)["train"]

    def stepped(run: Any, course: Any) -> Any:
        if at[2] < 0:
            at[2] = run.step
        found = step(run, course)
        at[3] = run.step
        return found

    def trained(task: Any, trial: Trial, **rest: Any) -> Any:
        at[:] = [trial.number, trial.attempt, -1, 0]
        return train(task, trial, **rest)

    vars(worker.trainer).update(_step=stepped)
    vars(worker.loop).update(train=trained)
    Worker(settings, threading.Event()).work()


if __name__ == "__main__":
    main()
