"""Searches compared by real training: jobs of this service, Optuna's search as its jobs run it, and Ray Tune's ASHA.

    python -m benchmarks.live --quick
    python -m benchmarks.live --full-runs 12 --seeds 3 --finish 6 --data DIR --json out.json

Three tasks (see `live_tasks.py`), nothing to download. Every search has the same space, the same full runs and the same
trainer; one worker, one thread. `curve` and `tpe` are samplers of a job, `+` adds its pruner. A study trains with its
own seed, the same for every search. The target is the best value that anybody found on a task with that seed, plus
1 %. A stopped winner is a trial that was stopped and, finished afterwards at no charge, beats what its study found;
`--finish` of the stopped ones, drawn by lot, are finished.
"""

import argparse
import json
import math
import os
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from threadpoolctl import threadpool_limits

from benchmarks import live_ray
from benchmarks.live_study import Ran, best_within, cost_to, finished, job, stopped, study
from benchmarks.live_tasks import TASKS, Live, lay_out

SEARCHES = "curve,curve+forecast,tpe,tpe+median,ray-asha,ray-asha-tpe"
NEAR = 1.01


@dataclass(frozen=True)
class Study:
    """One search on one task with one seed; values are validation losses, costs full runs."""

    task: str
    search: str
    seed: int
    best: float
    third: float
    trials: int
    paid: float
    stopped: int
    finished: list[float]
    cost_to_target: float | None = None
    seconds: float = 0.0

    @property
    def winners(self) -> int:
        """How many of the finished ones beat what the study found."""
        return sum(value < self.best for value in self.finished)


def studied(search: str, live: Live, seed: int, args: argparse.Namespace, folder: Path) -> tuple[Study, list[Ran]]:
    """Let one search run, and finish some of what it stopped."""
    began = time.perf_counter()
    ray = search in live_ray.STRATEGIES
    sampler, _, pruner = ("random", "", "") if ray else search.partition("+")
    spec = job(live, sampler=sampler, pruner=pruner or "none", seed=seed, full_runs=args.full_runs)
    ran = live_ray.study(search, spec, live, folder) if ray else study(spec, live, folder)
    seconds = time.perf_counter() - began
    gone = stopped(ran[:-1])  # the last one may have been cut off by the end of the budget
    some = random.Random(seed).sample(gone, min(args.finish, len(gone)))
    ends = [value for one in some if (value := finished(spec, one, live, folder)) is not None]
    best, third = best_within(ran, args.full_runs), best_within(ran, args.full_runs / 3)
    paid = round(sum(one.paid for one in ran), 2)
    found = Study(live.name, search, seed, best, third, len(ran), paid, len(gone), ends, seconds=round(seconds, 1))
    return found, ran


def compared(live: Live, args: argparse.Namespace, folder: Path) -> list[Study]:
    """Every search with every seed on one task, with the cost to what the best of them found."""
    found = []
    for seed in range(args.seeds):
        pairs = [_said(*studied(search, live, seed, args, folder)) for search in args.searches.split(",")]
        target = NEAR * min(min([one.best, *one.finished]) for one, _ in pairs)
        found += [Study(**{**asdict(one), "cost_to_target": cost_to(ran, target)}) for one, ran in pairs]
    return found


def _said(one: Study, ran: list[Ran]) -> tuple[Study, list[Ran]]:
    words = f"best {one.best:.4f}, {one.trials} trials for {one.paid:g} full runs"
    lost = (
        f"{one.stopped} stopped, {one.winners} of {len(one.finished)} finished win" if one.stopped else "none stopped"
    )
    print(f"{one.task} {one.search} seed {one.seed}: {words}, {lost}, {one.seconds:.0f} s", flush=True)
    return one, ran


def row(task: str, search: str, studies: Sequence[Study]) -> str:
    """One line of the table."""
    costs = [math.inf if one.cost_to_target is None else one.cost_to_target for one in studies]
    cost = "never" if math.isinf(median(costs)) else f"{median(costs):.1f}"
    there = sum(map(math.isfinite, costs))
    ends = sum(len(one.finished) for one in studies)
    winners = f"{sum(one.winners for one in studies)} of {ends}" if ends else "–"
    third, best = (f"{median(getattr(one, name) for one in studies):.4f}" for name in ("third", "best"))
    gone = sum(one.stopped for one in studies)
    return f"| {task} | {search} | {third} | {best} | {cost} ({there} of {len(studies)}) | {gone} | {winners} |"


def table(studies: Sequence[Study]) -> str:
    """The comparison as a Markdown table: medians over the seeds."""
    head = "| task | search | best after a third | best | cost to target | stopped | winners among those finished |"
    groups = list(dict.fromkeys((one.task, one.search) for one in studies))
    rows = [row(*group, [one for one in studies if (one.task, one.search) == group]) for group in groups]
    return "\n".join([head, "|" + " --- |" * 7, *rows])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", default=SEARCHES)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--full-runs", type=float, default=12.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--finish", type=int, default=6, help="stopped trials of each study to finish afterwards")
    parser.add_argument("--data", type=Path, help="a folder whose files take the place of the made ones")
    parser.add_argument("--quick", action="store_true", help="one seed, four full runs, one finished: to see it work")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.full_runs, args.finish = 1, 4.0, 1
    return args


def main() -> None:
    """Compare, and print a line for each study and the table."""
    args = _arguments()
    torch.set_num_threads(1)
    threadpool_limits(1)
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="live-") as place:
        lay_out(Path(place), args.data)
        if any(search in live_ray.STRATEGIES for search in args.searches.split(",")):
            live_ray.start(Path(place))
        studies = [one for name in args.tasks.split(",") for one in compared(TASKS[name], args, Path(place))]
    print("\n" + table(studies))
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in studies], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
