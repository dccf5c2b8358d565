"""Chaos: `python -m benchmarks.chaos [--minutes 3] [--faults N] [--seed N] [--only sqlite]`, or `make chaos`.

Several jobs at once, of built-in tasks and of loops over HTTP, while faults that a seed draws hit workers, server,
loops, database, network, disk and clock. Then the faults end, every job must succeed, and the database must keep what
`invariants.py` asks of it. Prints the seed first: with it the same faults come in the same order, though the
moments are the machine's. Both databases, one after the other.

Nothing is too late, however slow the machine is: a fault comes once the service has got over the one before it, and
only where nothing at all changes any more is a run given up.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.chaos import faults, invariants
from benchmarks.chaos.databases import Postgres, Sqlite, small_disk
from benchmarks.chaos.stack import LEASE, Stack, is_of
from lrtune.store import jobs
from lrtune.store.tables import AttemptRow, JobRow, TrialRow
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OPEN, OVER

SILENCE, PATIENCE = 10.0, 240.0  # seconds, at least: some waits of the service are of a minute
AT_ONCE = 2  # jobs of either kind
WELL = ("paused", "finished")  # how an attempt ends that was not in vain
METRIC = {"name": "val_loss", "goal": "minimize"}
BUILT_IN: dict[str, Any] = {
    "task": {"name": "digits", "params": {"hidden": [16]}},
    "metric": METRIC,
    "horizon": {"steps": 200},
    "schedules": ["cosine", "wsd"],
    "budget": {"full_runs": 3},
    "confirm": {"top": 1, "seeds": 1},
}
LOOP: dict[str, Any] = {
    "task": "external",
    "metric": METRIC,
    "horizon": {"steps": 40},
    "schedules": ["cosine", "linear"],
    "budget": {"full_runs": 4},
    "confirm": {"top": 1, "seeds": 1},
    "tags": {"loop": "yes"},
}
WHOLE = {"search": {"sampler": "tpe", "pruner": "median"}}  # every other job: whole runs, pruned as they go
KINDS: dict[str, type[Sqlite] | type[Postgres]] = {"sqlite": Sqlite, "postgresql": Postgres}


def main() -> int:
    """Both databases; 0 where nothing was broken."""
    parser = argparse.ArgumentParser("python -m benchmarks.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=3.0, help="of faults, for each database")
    parser.add_argument("--faults", type=int, default=10**6, help="at most so many, for each database")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--only", choices=KINDS)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing of ours stays
    print(f"seed {asked.seed}", flush=True)
    wrong = False
    for kind in [asked.only] if asked.only else KINDS:
        found = chaos(kind, seed=asked.seed, seconds=60 * asked.minutes, most=asked.faults)
        print(json.dumps(found, indent=1), flush=True)
        wrong = wrong or bool(found["broken"])
    return int(wrong)


def chaos(kind: str, *, seed: int, seconds: float, most: int) -> dict[str, Any]:
    """One run on one database: what was there, which faults came, what was broken."""
    with running(kind) as stack:
        found = suffered(stack, faults.drawn(stack, chance := Random(seed)), chance, seconds, most)
    return {"database": kind, "seed": seed} | found


@contextmanager
def running(kind: str) -> Iterator[Stack]:
    """The whole service on a database, on a small disk of its own."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="lrtune-chaos-") as name:
        folder, made = Path(name), KINDS[kind]
        folder.chmod(0o755)  # PostgreSQL runs as somebody else
        with small_disk(folder / "disk", made.megabytes) as mounted:
            stack = Stack(made(folder / "disk"), folder, folder / "disk", full=mounted)
            try:
                yield stack
            finally:
                stack.close()


def suffered(stack: Stack, coming: Iterator[faults.Fault], chance: Random, seconds: float, most: int) -> dict[str, Any]:
    """What a stack has come to after so many faults, or those of so many seconds, and once all jobs have ended."""
    begun, came = time.monotonic(), Counter[str]()
    if _wait(stack, partial(_everybody, stack), submitting=True):
        began = time.monotonic()
        took = began - begun  # as long as anything may take, for all of them had to start
        stack.silence, stack.patience = max(SILENCE, took), max(PATIENCE, 5 * took)
        print(f"{began - begun:6.1f} s  everybody trains", flush=True)
        for fault in islice(coming, most):
            name = fault.__name__.replace("_", " ")
            print(f"{time.monotonic() - begun:6.1f} s  {name}: {fault(stack, chance)}", flush=True)
            came[name] += 1
            if time.monotonic() - began > seconds or not _recovered(stack, stages=chance.randint(2, 6)):
                break
    print(f"{time.monotonic() - begun:6.1f} s  {sum(stack.ask(_open).values())} jobs are open", flush=True)
    _wait(stack, lambda tx: not _open(tx))
    left = sum(stack.ask(_open).values())
    print(f"{time.monotonic() - begun:6.1f} s  {left} jobs are left open", flush=True)
    judge = partial(invariants.broken, strangers=stack.strangers, lease=LEASE, expired=stack.expired)
    if broken := stack.ask(judge):
        print(stack.said(), file=sys.stderr)
    found = {"faults": dict(came), "starts": {one.name: one.starts for one in stack.members}}
    return found | {"held": stack.ask(invariants.counted), "left open": left, "broken": broken}


def _everybody(stack: Stack, tx: Session) -> bool:
    """Whether each worker and each loop has trained a stage."""
    well = set(tx.scalars(select(AttemptRow.worker).where(AttemptRow.outcome.in_(WELL))))
    return all(any(is_of(name, [one.pid]) for name in well) for one in (*stack.workers, *stack.loops))


def _recovered(stack: Stack, stages: int) -> bool:
    """Wait until so many more stages are trained, and no trial is on its way to its last death: only a fault may kill.

    False where nothing changes any more.
    """
    trained = select(func.count()).where(AttemptRow.outcome.in_(WELL))
    enough = stack.ask(lambda tx: tx.scalars(trained).one()) + stages
    return _wait(stack, lambda tx: tx.scalars(trained).one() >= enough and not _dying(tx), submitting=True)


def _dying(tx: Session) -> bool:
    """Whether a trial has lost three attempts in a row: five are its end."""
    return tx.scalars(select(TrialRow.id).where(TrialRow.state.in_(OPEN), TrialRow.deaths > 2)).first() is not None


def _wait(stack: Stack, condition: Callable[[Session], bool], *, submitting: bool = False) -> bool:
    """Wait as long as anything changes; whether the condition holds. Jobs may be submitted meanwhile as others end.

    A trial whose holder never heard that it has it, as its connection was cut, need not wait for its lease to run out.
    """
    seen, since, expired = None, time.monotonic(), False
    while not (holds := stack.ask(condition)) and (idle := time.monotonic() - since) < stack.patience:
        if submitting:
            submit(stack, AT_ONCE)
        if (now := stack.ask(invariants.counted)) != seen:
            seen, since, expired = now, time.monotonic(), False
        elif idle > stack.silence and not expired and not stack.ask(_dying):
            stack.expire([one.pid for one in stack.members])
            expired = True
        time.sleep(0.2)
    return holds


def _open(tx: Session) -> dict[str, int]:
    query = select(JobRow.task, func.count()).where(JobRow.state.not_in(OVER)).group_by(JobRow.task)
    return {str(task): int(count) for task, count in tx.execute(query)}


def submit(stack: Stack, at_once: int) -> None:
    """Let there be so many open jobs of either kind again."""
    opened = stack.ask(_open)
    for spec in (BUILT_IN, LOOP):
        task = spec["task"] if isinstance(spec["task"], str) else spec["task"]["name"]
        for number in range(opened.get(task, 0), at_once):
            job = AdmittedJob.model_validate(spec | (WHOLE if number % 2 else {}))
            stack.ask(partial(jobs.create, spec=job), write=True)


if __name__ == "__main__":
    sys.exit(main())
