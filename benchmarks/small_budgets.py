"""What a small budget brings: `python -m benchmarks.small_budgets --tables DIR --budgets 2,2.5,3 --seeds 20`.

Somebody who can afford one run and a bit has a baseline, any row of the table, and the search gets what it leaves.
`rank` is the share of the table's whole runs that are better than the best one trained, the mean over the seeds; `gain`
how often that is not the baseline.
"""

import argparse
import math
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.ours import VARIANTS, Replay
from benchmarks.replay import Table, load_tables


@dataclass(frozen=True)
class Study:
    """The ranks of the baseline and of the best run, 0 to 1, and how many runs were begun."""

    baseline: float
    best: float
    begun: int


def study(table: Table, budget: float, seed: int) -> Study:
    """One search of so many full runs, the baseline among them."""
    replay = Replay(table, seed, VARIANTS["curve"], budget)
    whole = [row for row in table.rows.values() if row.horizon == table.target and math.isfinite(row.final)]
    ends = np.sort([row.final for row in whole])
    baseline = whole[np.random.default_rng(seed).integers(len(whole))]
    replay.train(baseline.key, table.target)
    while replay.step():
        pass
    best = min(run.reports[-1][1] for run in replay.runs.values() if run.completed(table.target))
    first, last = (float(np.searchsorted(ends, value)) / len(ends) for value in (baseline.final, best))
    return Study(first, last, len(replay.runs))


def main() -> None:
    """Print a line for each table and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True, help="folder with tables.json")
    parser.add_argument("--only", default="", help="only tables whose name contains this")
    parser.add_argument("--budgets", default="2,2.5,3")
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    threadpool_limits(1)
    print("| table | budget | runs begun | baseline's rank | rank | gain |\n|" + " --- |" * 6, flush=True)
    for table in load_tables(args.tables):
        for budget in map(float, args.budgets.split(",") if args.only in table.name else ()):
            all_ = [study(table, budget, seed) for seed in range(args.seeds)]
            begun, before, after = (fmean(getattr(one, name) for one in all_) for name in ("begun", "baseline", "best"))
            gain = fmean(one.best < one.baseline for one in all_)
            print(f"| {table.name} | {budget:g} | {begun:.1f} | {before:.2f} | {after:.2f} | {gain:.0%} |", flush=True)


if __name__ == "__main__":
    main()
