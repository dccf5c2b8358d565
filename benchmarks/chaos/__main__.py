"""Chaos: `python -m benchmarks.chaos [--minutes 3] [--seed N] [--only sqlite]`, or `make chaos`.

Several jobs at once, of built-in tasks and of loops over HTTP, while faults that a seed draws hit workers, server,
loops, database, network, disk and clock. Then the faults end, every job must succeed, and the database must keep what
`invariants.py` asks of it. Prints the seed first: with it the same faults come in the same order, though the
moments are the machine's. Both databases, one after the other.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.chaos import faults, invariants
from benchmarks.chaos.databases import Postgres, Sqlite, small_disk
from benchmarks.chaos.stack import Stack
from lrtune.store import jobs
from lrtune.store.tables import JobRow
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OVER

PATIENCE = 240.0  # seconds without any progress once the faults have ended: a slow machine takes what it needs
AT_ONCE = 2  # jobs of either kind
METRIC = {"name": "val_loss", "goal": "minimize"}
BUILT_IN: dict[str, Any] = {
    "task": {"name": "digits", "params": {"hidden": [16]}},
    "metric": METRIC,
    "horizon": {"steps": 200},
    "schedules": ["cosine", "wsd"],
    "budget": {"full_runs": 4},
    "confirm": {"top": 1, "seeds": 1},
}
LOOP: dict[str, Any] = {
    "task": "external",
    "metric": METRIC,
    "horizon": {"steps": 40},
    "schedules": ["cosine", "linear"],
    "budget": {"full_runs": 6},
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
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--only", choices=KINDS)
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    wrong = False
    for kind in [asked.only] if asked.only else KINDS:
        found = chaos(kind, seed=asked.seed, seconds=60 * asked.minutes)
        print(json.dumps(found, indent=1), flush=True)
        wrong = wrong or bool(found["broken"])
    return int(wrong)


def chaos(kind: str, *, seed: int, seconds: float, at_once: int = AT_ONCE) -> dict[str, Any]:
    """One run on one database with so many jobs of either kind: what was there, which faults came, what was broken."""
    with running(kind) as stack:
        found = suffered(stack, faults.drawn(stack, chance := Random(seed)), chance, seconds, at_once)
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


def suffered(
    stack: Stack, coming: Iterator[faults.Fault], chance: Random, seconds: float, at_once: int = AT_ONCE
) -> dict[str, Any]:
    """What a stack has come to after so many seconds of faults, and once they have ended."""
    begun, came = time.monotonic(), Counter[str]()
    for fault in coming:
        submit(stack, at_once)
        time.sleep(chance.uniform(1.0, 3.0))
        if time.monotonic() - begun > seconds:
            break
        name = fault.__name__.replace("_", " ")
        print(f"{time.monotonic() - begun:6.1f} s  {name}: {fault(stack, chance)}", flush=True)
        came[name] += 1
    left = finished(stack)
    broken = stack.ask(lambda tx: invariants.broken(tx, strangers=stack.strangers))
    if broken:
        print(stack.said(), file=sys.stderr)
    found = {"faults": dict(came), "starts": {one.name: one.starts for one in stack.members}}
    return found | {"held": stack.ask(invariants.counted), "left open": sum(left.values()), "broken": broken}


def finished(stack: Stack) -> dict[str, int]:
    """Wait until every job is over, or nothing moves any more; how many of each kind are left."""
    seen, since = None, time.monotonic()
    while (left := stack.ask(_open)) and time.monotonic() - since < PATIENCE:
        now = stack.ask(invariants.counted)
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.5)
    return left


def _open(tx: Session) -> dict[str, int]:
    query = select(JobRow.task, func.count()).where(JobRow.state.not_in(OVER)).group_by(JobRow.task)
    return {str(task): int(count) for task, count in tx.execute(query)}


def submit(stack: Stack, at_once: int) -> None:
    """Let there be so many open jobs of either kind again."""

    def missing(tx: Session) -> None:
        opened = _open(tx)
        for spec in (BUILT_IN, LOOP):
            task = spec["task"] if isinstance(spec["task"], str) else spec["task"]["name"]
            for number in range(opened.get(task, 0), at_once):
                jobs.create(tx, AdmittedJob.model_validate(spec | (WHOLE if number % 2 else {})))

    stack.ask(missing)


if __name__ == "__main__":
    sys.exit(main())
