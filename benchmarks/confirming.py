"""Confirming runs: how many are bought, what the answer loses, and whether its intervals hold.

    python -m benchmarks.confirming --jobs 1000
    python -m benchmarks.confirming --real DIR --tasks diabetes,digits --seeds 64

A job has trained twelve configurations to their end; the best three by their single run, and the baseline, run over
fresh seeds. A value is the configuration's own, and a seed's part for all that ran over it, and noise. `all` runs every
candidate over every seed, as jobs did at first; `bought` is what they do now, and the answer with its intervals is what
a job of these trials says. Everything is in units of the noise: `spread` is how far configurations differ, `seeds` how
much seeds do. Loss is what the answer lies behind the best candidate. The intervals are of the answer's value, of what
it is better than the baseline by, and of the baseline's value; the width is a median.

`--loud` makes the baseline noisier than the others, `--sway` lets a seed do more to it, `--tails` draws the noise from
Student's t. `--real` draws no numbers: it trains the leaders of `benchmarks.grid` and the baseline over so many seeds,
keeps them beside the grid in DIR, and lets jobs confirm on what came out, each with four of these seeds. The truth is
then the mean over all seeds, and everything in per cent of the best one's.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import grid
from benchmarks.live_tasks import TASKS, lay_out
from lrtune.analysis import paired
from lrtune.analysis.answer import best
from lrtune.optimizers import Adamw
from lrtune.schedules import Constant, Cosine
from lrtune.search.confirm import next_to_run
from lrtune.search.engine.types import Array
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Role, Trial, TrialState

WHOLE, TOP, SEEDS, STEPS = 12, 3, 3, 100
SPEC = AdmittedJob.model_validate(
    {
        "task": "digits",
        "metric": {"name": "loss", "goal": "minimize"},
        "horizon": {"steps": STEPS},
        "schedules": ["cosine", "constant"],
        "confirm": {"top": TOP, "seeds": SEEDS},
    }
)
PLACES = [
    *(Configuration(optimizer=Adamw(), learning_rate=0.01 * (1 + i), schedule=Cosine()) for i in range(TOP)),
    Configuration(optimizer=Adamw(), learning_rate=0.001, schedule=Constant()),
]


@dataclass(frozen=True)
class Setting:
    """What jobs are drawn from, in units of the candidates' noise."""

    spread: float = 1.0  # how far configurations differ
    seeds: float = 1.0  # how much seeds do to all
    loud: float = 1.0  # the baseline's noise
    sway: float = 1.0  # what a seed does to the baseline, in what it does to the others
    tails: float = math.inf  # degrees of freedom of the noise
    behind: float = 3.0  # how far the baseline lies behind


@dataclass(frozen=True)
class Drawn:
    """What (TOP + 1) candidates, the baseline last, truly are, showed in the search, and show over fresh seeds."""

    own: Array
    once: Array
    values: Array  # (TOP + 1, SEEDS)


@dataclass(frozen=True)
class Ended:
    """One job: runs bought, what the answer loses, and of each interval whether it holds the truth, and its width."""

    runs: int
    loss: float
    value: tuple[bool, float]
    lift: tuple[bool, float]
    baseline: tuple[bool, float]


def drawn(random: np.random.Generator, setting: Setting) -> Drawn:
    """One job's candidates, the best by their single runs, and its baseline."""

    def noise(*shape: int) -> Array:
        if math.isinf(setting.tails):
            return random.normal(size=shape)
        return random.standard_t(setting.tails, shape) * math.sqrt((setting.tails - 2) / setting.tails)

    truth = setting.spread * np.abs(random.normal(size=WHOLE))
    once, seeds = truth + noise(WHOLE), setting.seeds * random.normal(size=1 + SEEDS)
    top = np.argsort(once)[:TOP]
    own = np.array([*truth[top], truth.min() + setting.behind])
    scale, moved = np.ones((TOP + 1, 1)), np.ones((TOP + 1, 1))
    scale[-1], moved[-1] = setting.loud, setting.sway
    values = own[:, None] + moved * seeds[1:] + scale * noise(TOP + 1, SEEDS)
    last = own[-1] + setting.loud * noise(1)[0]
    return Drawn(own, np.array([*once[top], last]) + moved[:, 0] * seeds[0], values)


def ended(job: Drawn, *, bought: bool) -> Ended:
    """Confirm it, and see what its answer says."""
    fresh = buy(job) if bought else [dict(enumerate(map(float, row))) for row in job.values]
    found = best(SPEC, _trials(job, fresh), steps=STEPS, full_runs=0.0)
    assert found is not None
    assert found.baseline is not None
    place, lift = PLACES.index(found.configuration), paired.lift(found)
    assert lift is not None
    held = [
        (ends[0] <= true <= ends[1], ends[1] - ends[0])
        for ends, true in (
            (found.interval, job.own[place]),
            (lift.interval, job.own[-1] - job.own[place]),
            (found.baseline.interval, job.own[-1]),
        )
        if ends
    ]
    return Ended(sum(map(len, fresh)), float(job.own[place] - job.own.min()), *held)


def buy(job: Drawn) -> list[dict[int, float]]:
    """The values, by seed, of the runs that confirming buys, one at a time."""
    counts, searched = [0] * (TOP + 1), dict(enumerate(map(float, job.once)))
    while True:
        fresh = [dict(enumerate(map(float, row[:count]))) for row, count in zip(job.values, counts, strict=True)]
        expected, most = list(searched.values()), SPEC.confirm.runs
        pick = next_to_run(fresh, counts, SEEDS, baseline=TOP, searched=searched, expected=expected, most=most)
        if pick is None:
            return fresh
        counts[pick] += 1


def _trials(job: Drawn, fresh: Sequence[dict[int, float]]) -> Iterator[Trial]:
    number = itertools.count()
    for place, configuration in enumerate(PLACES):
        first: Role = "baseline" if place == TOP else "search"
        runs: list[tuple[Role, int, float]] = [(first, 0, float(job.once[place]))]
        for role, seed, value in [*runs, *(("confirm", 1 + seed, value) for seed, value in fresh[place].items())]:
            yield Trial(
                number=next(number),
                role=role,
                state=TrialState.COMPLETE,
                configuration=configuration,
                seed=seed,
                horizon=STEPS,
                value=value,
            )


def real(truth: grid.Truth, seeds: int) -> Array:
    """What the grid's leaders and, last, the baseline come to over so many seeds, in per cent of the best of them."""
    grid.best(truth, grid.LEADERS, grid.SEEDS)
    leaders = [Configuration.model_validate_json(one) for one in truth.about["best"]]
    kinds = [one.kind for one in leaders]
    chosen = sorted(leaders, key=lambda one: kinds[: leaders.index(one)].count(one.kind))[
        :TOP
    ]  # of other families first
    rows = np.array([truth.over(one, seeds) for one in (*chosen, grid.untuned(truth.live))])
    return np.asarray(100 * rows / rows.mean(axis=1).min())


def sampled(random: np.random.Generator, rows: Array) -> Drawn:
    """A job over some of the seeds, the first of which was the search's."""
    some = random.permutation(rows.shape[1])[: 1 + SEEDS]
    return Drawn(rows.mean(axis=1), rows[:, some[0]], rows[:, some[1:]])


def row(jobs: Sequence[Ended], name: str) -> str:
    """One line of the table: means over the jobs, and medians of the widths."""
    loss = np.array([one.loss for one in jobs])
    cells = [
        f"{np.mean([one.runs for one in jobs]):.1f}",
        f"{loss.mean():.3f} ± {loss.std() / math.sqrt(len(jobs)):.3f}",
    ]
    for kind in ("value", "lift", "baseline"):
        held = [getattr(one, kind) for one in jobs]
        cells.append(f"{np.mean([inside for inside, _ in held]):.1%}, {np.median([width for _, width in held]):.2f}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Simulate, or train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    for name, about in (
        ("loud", "the baseline's noise, in that of the others"),
        ("sway", "what a seed does to the baseline, in what it does to the others"),
        ("tails", "degrees of freedom of the noise, above 2"),
        ("behind", "how far the baseline lies behind, in noises"),
    ):
        parser.add_argument(f"--{name}", type=float, default=getattr(Setting, name), help=about)
    parser.add_argument("--real", type=Path, help="the folder of the grids")
    parser.add_argument("--tasks", default="digits,diabetes,fine-tuning", help="of --real")
    parser.add_argument("--seeds", type=int, default=64, help="of --real: over how many each configuration is trained")
    args = parser.parse_args()
    print("| jobs | runs | loss | the value holds, width | the lift | the baseline |\n|" + " --- |" * 6)
    if args.real:
        torch.set_num_threads(1)
        lay_out(args.real, None)
        for task in args.tasks.split(","):
            known = real(grid.Truth(TASKS[task], args.real, args.real / f"grid-{task}.json"), args.seeds)
            some = [sampled(np.random.default_rng(n), known) for n in range(args.jobs)]
            for bought in (False, True):
                print(row([ended(job, bought=bought) for job in some], f"{task}, {'bought' if bought else 'all'}"))
        return
    given = {name: getattr(args, name) for name in ("loud", "sway", "tails", "behind")}
    for spread, seeds in itertools.product((0.3, 1.0, 3.0), (0.0, 1.0, 3.0)):
        setting = Setting(spread, seeds, **given)
        for bought in (False, True):
            jobs = [ended(drawn(np.random.default_rng(n), setting), bought=bought) for n in range(args.jobs)]
            print(row(jobs, f"{spread:g}, {seeds:g}, {'bought' if bought else 'all'}"), flush=True)


if __name__ == "__main__":
    main()
