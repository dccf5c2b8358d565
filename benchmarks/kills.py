"""Kill a worker at random moments of one job: `python -m benchmarks.kills [--kills 50] [--seed 0] [--json FILE]`.

The job is run once undisturbed, and once while its worker is killed with SIGKILL again and again, each time after a
random number of steps and a random share of 50 ms. The next worker comes when the lease has run out: one that comes
sooner asks the search for another trial meanwhile, and so runs another job. Workers are forked, to start at once.

Prints whether every trial, report and the answer came out the same; how many segments (twentieths of a run) a kill
caused to be trained again, on average and at most; and how many attempts started from a state that was kept.
"""

import argparse
import importlib
import json
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from ctypes import c_longlong
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import migrations
import worker.loop
import worker.trainer
from lrtune.store import Database, events, jobs, trials
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Job, Trial, TrialState
from worker.loop import Worker
from worker.settings import Settings

STEPS = 1000
SPEC = AdmittedJob.model_validate(
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
LEASE, TRIALS = 1.0, 100  # seconds; more trials than the job has


def main() -> None:
    """Run the job both ways, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # what an optimizer imports, once for all workers
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
        self._url = f"sqlite:///{folder / 'lrtune.db'}"
        migrations.upgrade(self._url)
        settings = Settings(database_url=self._url, device="cpu", poll_seconds=0.02, lease_seconds=LEASE)
        self._settings = settings.model_copy(update={"state_dir": str(folder / "states")})
        # Without locks, which a killed worker would keep: how many steps it did, its first trial, where that began.
        self._done, self._trial, self._begun = (FORK.RawValue(c_longlong, 0) for _ in range(3))
        self._stood = FORK.RawArray(c_longlong, TRIALS)  # how far each trial has been trained
        self._again: list[float] = []  # segments, one number for each kill
        database = Database(self._url)
        with database.write() as tx:
            self.job = jobs.create(tx, SPEC)[0].id
        database.dispose()

    def run(self, *, kills: int, chance: random.Random) -> int:
        """Bring the job to its end; how often its worker was killed in the middle of a trial."""
        done = 0
        while not self._over():
            self._done.value, self._begun.value = 0, -1
            stood = self._stood[:]
            working = FORK.Process(target=self._work)
            working.start()
            killed = self._wait(working, chance.randint(1, STEPS // 4) if done < kills else None)
            if killed:
                time.sleep(chance.uniform(0.0, 0.05))
            working.kill()
            working.join()
            done += killed
            self._count(stood)
            if killed:
                time.sleep(LEASE + 0.05)
        return done

    def seen(self) -> dict[str, Any]:
        """What the job's log says of the kills."""
        log = self._events()
        wrong = [event.message for event in log if event.kind in ("state-ignored", "state-not-saved")]
        wrong += [one.reason for one in self._read(lambda _, past: past) if one.state is TrialState.FAILED]
        again = {"mean": round(fmean(self._again or [0.0]), 2), "most": round(max(self._again, default=0.0), 2)}
        taken = sum(event.kind == "trial-taken-up" for event in log)
        return {"segments_again": again, "taken_up": taken, "wrong": wrong}

    def facts(self) -> Any:
        """What the job came to."""
        return self._read(came_to)

    def _wait(self, working: Any, steps: int | None) -> bool:
        """Until the worker has trained so many steps; False when the job is over before, or its worker has ended."""
        while steps is None or self._done.value < steps:
            if self._over() or not working.is_alive():
                return False
            time.sleep(0.1 if steps is None else 0.005)
        return True

    def _count(self, stood: list[int]) -> None:
        """How far behind the killed worker this one began, once it has trained a step of the same trial."""
        if self._begun.value >= 0 and (reached := stood[self._trial.value]):
            self._again.append(max(0, reached - self._begun.value) / (STEPS / 20))

    def _over(self) -> bool:
        return bool(self._read(lambda job, _: job.finished_at is not None))

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

    def _work(self) -> None:
        """A worker that says where it stands."""
        torch.set_num_threads(1)
        step, train, number = worker.trainer._step, vars(worker.loop)["train"], 0

        def stepped(run: Any, course: Any) -> Any:
            if self._begun.value < 0:
                self._trial.value, self._begun.value = number, run.step
            found = step(run, course)
            self._stood[number] = max(self._stood[number], run.step)
            self._done.value += 1
            return found

        def trained(task: Any, trial: Trial, **rest: Any) -> Any:
            nonlocal number
            number = trial.number
            return train(task, trial, **rest)

        vars(worker.trainer).update(_step=stepped)
        vars(worker.loop).update(train=trained)
        Worker(self._settings, threading.Event()).work()


def came_to(job: Job, history: Sequence[Trial]) -> Any:
    """The answer, and every trial with its reports: all that is to be the same however often a worker died."""
    runs = [(t.configuration, t.seed, t.role, t.state, t.value, t.step) for t in history]
    reports = [(r.step, r.learning_rate, r.metrics) for trial in history for r in trial.reports]
    best = job.best and (job.best.configuration, job.best.value, job.best.interval, job.best.trial)
    return runs, reports, best


if __name__ == "__main__":
    main()
