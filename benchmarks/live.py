"""Searches compared by real training: jobs of this service, Optuna's search as its jobs run it, and Ray Tune's ASHA.

    python -m benchmarks.live --quick
    python -m benchmarks.live --full-runs 12 --seeds 3 --finish 6 --data DIR --json out.json
    python -m benchmarks.live --searches curve --beside out.json
    python -m benchmarks.live --answers DIR --seeds 4

Five tasks (see `live_tasks.py`), nothing to download. Every search has the same space, the same full runs and the same
trainer; one worker, one thread. `curve` and `tpe` are samplers of a job, `+` adds its pruner. A study trains with its
own seed, the same for every search. The target is the best value that anybody found on a task with that seed, plus
1 %. A stopped winner is a trial that was stopped and, finished afterwards at no charge, beats what its study found;
`--finish` of the stopped ones, drawn by lot, are finished. `--answers` compares no searches: it says what the answers
of whole jobs are worth (see `live_answers.py`).
"""

import argparse
import itertools
import json
import math
import os
import platform
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from threadpoolctl import threadpool_limits

from benchmarks import live_answers, live_ray
from benchmarks.grid import SEEDS
from benchmarks.live_study import NEAR, Study, finished, job, stopped, study, whole
from benchmarks.live_tasks import TASKS, Live, lay_out

SEARCHES = "curve,curve+forecast,tpe,tpe+median,ray-asha,ray-asha-tpe"


def studied(search: str, live: Live, seed: int, args: argparse.Namespace, folder: Path) -> Study:
    """Let one search run, and finish some of what it stopped."""
    began = time.perf_counter()
    ray = search in live_ray.STRATEGIES
    sampler, _, pruner = ("random", "", "") if ray else search.partition("+")
    spec = job(live, sampler=sampler, pruner=pruner or "none", seed=seed, full_runs=args.full_runs)
    ran = live_ray.study(search, spec, live, folder) if ray else study(spec, live, folder)
    seconds = round(time.perf_counter() - began, 1)
    gone = stopped(ran[:-1])  # the last one may have been cut off by the end of the budget
    some = random.Random(seed).sample(gone, min(args.finish, len(gone)))
    ends = [value for one in some if (value := finished(spec, one, live, folder)) is not None]
    paid = round(sum(one.paid for one in ran), 2)
    return _said(Study(live.name, search, seed, len(ran), paid, len(gone), whole(ran), ends, seconds))


def _said(one: Study) -> Study:
    words = f"best {one.best:.4f}, {one.trials} trials for {one.paid:g} full runs"
    lost = (
        f"{one.stopped} stopped, {one.winners} of {len(one.finished)} finished win" if one.stopped else "none stopped"
    )
    print(f"{one.task} {one.search} seed {one.seed}: {words}, {lost}, {one.seconds:.0f} s", flush=True)
    return one


def row(group: Sequence[Study], targets: Mapping[tuple[str, int], float], full_runs: float) -> str:
    """One line of the table: the same search on the same task."""
    costs = [one.cost_to(targets[one.task, one.seed]) for one in group]
    cost = "never" if math.isinf(median(costs)) else f"{median(costs):.1f}"
    ends = sum(len(one.finished) for one in group)
    winners = f"{sum(one.winners for one in group)} of {ends}" if ends else "–"
    third, best = median(one.within(full_runs / 3) for one in group), median(one.best for one in group)
    there, gone = sum(map(math.isfinite, costs)), sum(one.stopped for one in group)
    name = f"| {group[0].task} | {group[0].search} | {third:.4f} | {best:.4f} "
    return f"{name}| {cost} ({there} of {len(group)}) | {gone} | {winners} |"


def table(studies: Sequence[Study], full_runs: float) -> str:
    """The comparison as a Markdown table: medians over the seeds."""
    head = "| task | search | best after a third | best | cost to target | stopped | winners among those finished |"
    found: dict[tuple[str, int], list[float]] = {}
    for one in studies:
        found.setdefault((one.task, one.seed), []).extend([one.best, *one.finished])
    targets = {place: NEAR * min(values) for place, values in found.items()}
    groups: dict[tuple[str, str], list[Study]] = {}
    for one in sorted(studies, key=lambda one: list(TASKS).index(one.task)):
        groups.setdefault((one.task, one.search), []).append(one)
    return "\n".join([head, "|" + " --- |" * 7, *(row(group, targets, full_runs) for group in groups.values())])


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
    parser.add_argument("--beside", type=Path, help="the --json of an earlier run, to stand in the same table")
    parser.add_argument("--answers", type=Path, help="the folder of the grids: what the answers of jobs are worth")
    parser.add_argument("--ways", default=",".join(live_answers.WAYS), help="of --answers")
    parser.add_argument("--truth", type=int, default=SEEDS, help="of --answers: seeds by which one is judged")
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
    if args.answers:
        args.answers.mkdir(parents=True, exist_ok=True)
        lay_out(args.answers, args.data)
        live_answers.report(args)
        return
    with tempfile.TemporaryDirectory(prefix="live-") as place:
        lay_out(Path(place), args.data)
        if any(search in live_ray.STRATEGIES for search in args.searches.split(",")):
            live_ray.start(Path(place))
        asked = itertools.product(args.tasks.split(","), range(args.seeds), args.searches.split(","))
        studies: list[Study] = []
        for task, seed, search in asked:
            studies.append(studied(search, TASKS[task], seed, args, Path(place)))
            if args.json:  # after each, because the whole takes its time
                args.json.write_text(json.dumps([asdict(one) for one in studies], indent=1), encoding="utf-8")
    if args.beside:
        studies += [Study(**one) for one in json.loads(args.beside.read_text(encoding="utf-8"))]
    print("\n" + table(studies, args.full_runs))


if __name__ == "__main__":
    main()
