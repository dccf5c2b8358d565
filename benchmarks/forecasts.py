"""How good are the forecasts of final values: stops, false stops and coverage on replay tables.

    python -m benchmarks.forecasts --tables DIR

For each table, jobs with some random completed runs judge other trials at a quarter, a half and three quarters.
A false stop is a trial that would have beaten the job's best.
"""

import argparse
import math

import numpy as np

from benchmarks.replay import Row, Table, load_tables
from lrtune.search.engine.early_stop import Rules, judge
from lrtune.search.engine.types import Run, State


def _as_run(key: int, row: Row, until: int, state: State) -> Run:
    reports = tuple((s, v) for s, v in row.reports if s <= until)
    return Run(key, row.horizon, row.lr, tuple(row.extras.values()), reports, state, until)


def stops(table: Table, seed: int, completed: int, others: int) -> tuple[int, int, int, float]:
    """Trials judged, stopped, falsely stopped, and full runs saved, in one job."""
    random = np.random.default_rng(seed)
    rows = [row for row in table.at_target() if math.isfinite(row.final)]
    picked = [rows[i] for i in random.permutation(len(rows))[: completed + others]]
    runs = [_as_run(key, row, row.horizon, "complete") for key, row in enumerate(picked[:completed])]
    best = min(run.reports[-1][1] for run in runs)
    stopped = false = 0
    saved = 0.0
    for key, row in enumerate(picked[completed:], start=completed):
        for share in (0.25, 0.5, 0.75):
            running = _as_run(key, row, int(share * row.horizon), "running")
            if judge(runs, running, table.target, rules=Rules(audit=0)).stop:
                stopped, false, saved = stopped + 1, false + (row.final < best), saved + 1 - share
                break
    return len(picked) - completed, stopped, false, saved


def main() -> None:
    """Judge, and print a line a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True)
    parser.add_argument("--jobs", type=int, default=5)
    args = parser.parse_args()
    for table in load_tables(args.tables):
        for completed in (5, 10):
            found = np.sum([stops(table, seed, completed, 15) for seed in range(args.jobs)], axis=0)
            judged, stopped, false, saved = found
            print(
                f"{table.name}, {completed} completed: {stopped:.0f} of {judged:.0f} stopped, {false:.0f} falsely, "
                f"{saved / judged:.0%} of their cost saved",
                flush=True,
            )


if __name__ == "__main__":
    main()
