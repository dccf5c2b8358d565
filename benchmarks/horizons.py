"""Name the best peak rate over a longer horizon than any that was fitted on, and compare with what the logs say.

    python -m benchmarks.horizons --tables DIR [--only llama] [--upto 25000]

Of each table with runs over several horizons those over the longest are held back, and all above `--upto`. The law of
training is fitted on the others, as in a job whose horizon is the longest of these: on the runs over that one alone,
and on those over all. For each schedule with a best peak between two others over both horizons it is said where the
best peak lies over the longest: by the law, by the square-root rule, and as a job would answer. Errors are in doublings
of the rate; `inside` is the share of 95 % intervals that hold what the logs say.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from benchmarks.ours import STAGED, make_pool
from benchmarks.replay import Row, Table, load_tables
from lrtune.search.engine.peaks import Move, mixture, moves_by_law, moves_by_rule
from lrtune.search.engine.types import Array, Run
from lrtune.search.engine.weighing import WeighedModel

OWN_STD = 0.25 * math.log(2.0)  # of the log of a best peak on a grid of factors of two
ENDS = (0.5, 0.025, 0.975)


@dataclass(frozen=True)
class Named:
    """A schedule's best peak over the longest horizon: as the logs have it, and named, (median, low, high) each."""

    schedule: str
    truth: float
    trained: float
    law: Array
    rule: Array
    fitted: Array
    answer: Array

    def off(self, which: str) -> float:
        """How far the named peak lies above what the logs say, in doublings; `trained` is the peak unmoved."""
        peak = self.trained if which == "trained" else getattr(self, which)[0]
        return float(math.log2(peak / self.truth))


def vertex(runs: Iterable[Row]) -> float | None:
    """The best peak of runs that differ in it alone, by a parabola through the best and its neighbours."""
    at = {max(row.lr): row.final for row in runs if math.isfinite(row.final)}
    rates = sorted(at)
    best = min(range(len(rates)), key=lambda place: at[rates[place]], default=0)
    if not 0 < best < len(rates) - 1:
        return None
    x = np.log(rates[best - 1 : best + 2])
    bend, slope, _ = np.polyfit(x, [at[rate] for rate in rates[best - 1 : best + 2]], 2)
    return float(np.exp(-slope / (2 * bend)))


def fitted(table: Table, horizons: Sequence[int]) -> tuple[Table, WeighedModel]:
    """The models fitted to all runs over these horizons, of which the longest is the target."""
    target = max(horizons)
    left = replace(table, target=target, rows={key: row for key, row in table.rows.items() if row.horizon in horizons})
    pool = make_pool(left, embedding=True, effective=False)
    known = [
        Run(
            key=pool.keys[place],
            horizon=row.horizon,
            curve=tuple(row.lr),
            extras=tuple(pool.extras[place]),
            reports=tuple(report for report in row.reports if report[0] <= row.end),
            state="complete" if math.isfinite(row.final) else "diverged",
            until=row.end,
            born=place,
        )
        for place, row in enumerate(left.rows.values())
    ]
    return left, WeighedModel(pool, known, target, STAGED)


def named(table: Table, model: WeighedModel, longest: int, horizons: Sequence[int]) -> list[Named]:
    """What is named for each schedule whose best peak over both horizons is known."""
    groups: dict[str, dict[int, list[Row]]] = {}
    for row in table.rows.values():
        schedule = f"{row.params.get('schedule')}{row.params.get('schedule_knobs')}"
        groups.setdefault(schedule, {}).setdefault(row.horizon, []).append(row)
    found = []
    for schedule, over in groups.items():
        here, truth = vertex(over.get(model.target, [])), vertex(over.get(longest, []))
        if here is None or truth is None or model.law is None:
            continue
        peaks_at = {h: peak for h in horizons if (peak := vertex(over.get(h, []))) is not None}
        known = [Move(h, math.log(peak / here), OWN_STD) for h, peak in peaks_at.items()]
        curves = {h: np.array(over[h][0].lr) / max(over[h][0].lr) * here for h in (model.target, longest, *peaks_at)}
        law = moves_by_law(model.law, curves, longest, known)
        rule, by_runs = (moves_by_rule(longest, model.target, some) for some in ([], known))
        parts = [(rule, 1.0), (rule, 0.0), (by_runs, 0.0), (by_runs, model.share)]
        peaks = [here * np.exp(mixture(other, OWN_STD, law, share)) for other, share in parts]
        found.append(Named(schedule, truth, here, *peaks))
    return found


def render(name: str, model: WeighedModel, longest: int, found: Sequence[Named]) -> str:
    """A table's schedules, a line each, and how far off each way is in the median."""
    lines = [
        f"{name}: fitted on {len(model.runs)} runs up to {model.target} steps, named for {longest};"
        f" the law has the weight {model.share:.0%}",
        "| schedule | logs | trained | law | square-root rule | rule and shorter runs | answer |",
        "|" + " --- |" * 7,
    ]
    for one in found:
        cells = [
            f"{peak[0]:.3g} ({peak[1]:.2g} to {peak[2]:.2g})" for peak in (one.law, one.rule, one.fitted, one.answer)
        ]
        lines.append(f"| {one.schedule} | {one.truth:.3g} | {one.trained:.3g} | {' | '.join(cells)} |")
    if found:
        ways = ("trained", "law", "rule", "fitted", "answer")
        lines.append(f"| median error, doublings | | {' | '.join(_error(found, way) for way in ways)} |")
    return "\n".join(lines)


def _error(found: Sequence[Named], way: str) -> str:
    text = f"{median(abs(one.off(way)) for one in found):.2f}"
    if way == "trained":
        return text
    inside = [getattr(one, way)[1] <= one.truth <= getattr(one, way)[2] for one in found]
    return f"{text}, inside {sum(inside)} of {len(inside)}"


def main() -> None:
    """Name and compare, table by table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True, help="folder with tables.json")
    parser.add_argument("--only", default="", help="only tables whose name contains this")
    parser.add_argument("--upto", type=int, default=10**9, help="fit on no horizon above this")
    asked = parser.parse_args()
    for table in load_tables(asked.tables):
        horizons = sorted({row.horizon for row in table.rows.values()})
        below = [horizon for horizon in horizons[:-1] if horizon <= asked.upto]
        if asked.only not in table.name or not below:
            continue
        for some in [below[-1:], below][: len(below)]:
            model = fitted(table, some)[1]
            print(
                render(table.name, model, horizons[-1], named(table, model, horizons[-1], some[:-1])) + "\n", flush=True
            )


if __name__ == "__main__":
    main()
