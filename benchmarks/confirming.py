"""Confirming runs, simulated: how many are bought, what the answer loses, and whether its intervals hold.

    python -m benchmarks.confirming --jobs 2000

A job has trained twelve configurations to their end; the best three by their single run, and the baseline, run over
fresh seeds. A value is the configuration's own, and a seed's part for all that ran over it, and noise. `all` runs every
candidate over every seed, as jobs did before; `bought` is what they do now. Everything is in units of the noise:
`spread` is how far configurations differ, `seeds` how much seeds do. Loss is what the answer lies behind the best
candidate. The intervals are of the answer's value and of what it is better than the baseline by; `old` are those from
its own runs alone.
"""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from lrtune.analysis.additive import additive, noise
from lrtune.analysis.answer import around, interval, pooled_interval
from lrtune.search.confirm import next_to_run
from lrtune.search.engine.types import Array

WHOLE, TOP, SEEDS = 12, 3, 3
BASELINE = 3.0  # how far it lies behind, in noises


@dataclass(frozen=True)
class Ended:
    """One job: runs bought, what the answer loses, and of each interval whether it holds the truth, and its width."""

    runs: int
    loss: float
    value: tuple[bool, float]
    lift: tuple[bool, float]


def simulated(random: np.random.Generator, spread: float, seeds: float, bought: bool, loud: float) -> Ended:
    """One job with its confirming; the baseline is `loud` times as noisy as the others."""
    truth = spread * np.abs(random.normal(size=WHOLE))
    once = truth + random.normal(size=WHOLE)
    top = np.argsort(once)[:TOP]
    own = np.array([*truth[top], truth.min() + BASELINE])
    luck = random.normal(size=(TOP + 1, SEEDS)) * np.array([1.0] * TOP + [loud])[:, None]
    values = own[:, None] + seeds * random.normal(size=SEEDS) + luck
    searched = {place: float(once[i]) for place, i in enumerate(top)}
    if not bought:
        return _judged([dict(enumerate(map(float, row))) for row in values], own, {})
    return _judged(buy(values, searched), own, searched)


def buy(values: Array, searched: dict[int, float]) -> list[dict[int, float]]:
    """The values, by seed, of the runs that confirming buys, one at a time, of those it could, (TOP + 1, SEEDS)."""
    counts = [0] * (TOP + 1)
    while True:
        fresh = [dict(enumerate(map(float, row[:count]))) for row, count in zip(values, counts, strict=True)]
        pick = next_to_run(fresh, counts, SEEDS, baseline=TOP, searched=searched)
        if pick is None:
            return fresh
        counts[pick] += 1


def _judged(fresh: Sequence[dict[int, float]], own: Array, searched: Mapping[int, float]) -> Ended:
    fit = additive(fresh)
    assert fit is not None
    best = min((i for i in range(len(own)) if len(fresh[i]) > 1), key=lambda i: fit.parts[i])
    chance = noise(fresh, searched) if searched else None
    ours, theirs = [*fresh[best].values()], [*fresh[-1].values()]
    better = [theirs - ours for ours, theirs in zip(ours, theirs, strict=False)]
    lift = interval(better)
    if chance:
        lift = around(fmean(better), 2 * chance.residual[0] / len(better), chance.residual[1], better)
    value = pooled_interval(ours, chance)
    real = own[-1] - own[best]
    held = [
        (ends[0] <= true <= ends[1], ends[1] - ends[0]) for ends, true in ((value, own[best]), (lift, real)) if ends
    ]
    return Ended(sum(map(len, fresh)), float(own[best] - own.min()), held[0], held[-1])


def row(jobs: Sequence[Ended], name: str) -> str:
    """One line of the table: means over the jobs, and medians of the widths."""
    loss = np.array([one.loss for one in jobs])
    cells = [
        f"{np.mean([one.runs for one in jobs]):.1f}",
        f"{loss.mean():.3f} ± {loss.std() / math.sqrt(len(jobs)):.3f}",
    ]
    for kind in ("value", "lift"):
        held = [getattr(one, kind) for one in jobs]
        cells.append(f"{np.mean([inside for inside, _ in held]):.1%}, {np.median([width for _, width in held]):.2f}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--loud", type=float, default=1.0, help="the baseline's noise, in that of the others")
    args = parser.parse_args()
    print("| spread, seeds, rule | runs | loss | interval of the value holds, width | of the difference |")
    print("|" + " --- |" * 5)
    for spread, seeds in itertools.product((0.3, 1.0, 3.0), (0.0, 1.0, 3.0)):
        for bought in (False, True):
            random = np.random.default_rng(1)
            jobs = [simulated(random, spread, seeds, bought, args.loud) for _ in range(args.jobs)]
            print(row(jobs, f"{spread:g}, {seeds:g}, {'bought' if bought else 'all'}"), flush=True)


if __name__ == "__main__":
    main()
