"""Which configurations are confirmed: by their single runs, as jobs did at first, or by what is expected of them.

    python -m benchmarks.candidates --jobs 30

A job has trained a list of whole runs over one seed, at first anywhere in its space, then around the best of those so
far, as a search does; it confirms, and its answer lies behind the best of the list by so much. A value is made up: what
the rates come to, which is smooth, and luck, which adds up along a run, so that two that are one run up to where they
part share that of it. `noise` is the luck of a whole run in units of the spread of the ten best, in which loss is, too.
`by value` confirms the three best values and the baseline, `expected` what jobs do now, `--top` candidates at most.
"""

import argparse
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from lrtune.analysis.answer import best
from lrtune.search.baseline import baseline
from lrtune.search.candidates import Ends, candidates, expected_ends
from lrtune.search.confirm import next_to_run
from lrtune.search.curve.sampler import neighbours
from lrtune.search.studies.draw import RandomTrial
from lrtune.search.studies.space import coordinates
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Report, Role, Trial, TrialState, report_points

STEPS, ANYWHERE, LEADERS, TEN = 1000, 16, 4, 10
OF_SEARCH = 0  # the search's seed


def job(top: int) -> AdmittedJob:
    """A job that leaves everything as it is but the candidates."""
    return AdmittedJob.model_validate(
        {
            "task": "digits",
            "metric": {"name": "val_loss", "goal": "minimize", "range": [0, None]},
            "horizon": {"steps": STEPS},
            "confirm": {"top": top, "seeds": 3},
        }
    )


@dataclass
class World:
    """What runs come to; `noise` is the luck of a whole one."""

    number: int
    noise: float = 0.0
    known: dict[Configuration, list[tuple[int, float, float, int]]] = field(default_factory=dict)

    def reports(self, one: Configuration, seed: int) -> list[Report]:
        """Best at one mean rate, better once the rate has come down and where much of the way was at a high one."""
        if one not in self.known:
            self.known[one] = list(_way(one))
        found, luck = [], 0.0
        for step, rate, value, key in self.known[one]:
            random = np.random.default_rng([self.number, seed, key])
            luck += self.noise * random.normal() / math.sqrt(len(self.known[one]))
            found.append(Report(step=step, learning_rate=rate, metrics={"val_loss": max(value + luck, 0.0)}))
        return found

    def truth(self, one: Configuration) -> float:
        """What a configuration is worth."""
        if one not in self.known:
            self.known[one] = list(_way(one))
        return self.known[one][-1][2]

    def trial(self, number: int, role: Role, one: Configuration, seed: int) -> Trial:
        """A whole run."""
        reports = self.reports(one, seed)
        return Trial(
            number=number,
            role=role,
            state=TrialState.COMPLETE,
            configuration=one,
            seed=seed,
            horizon=STEPS,
            value=reports[-1].metrics["val_loss"],
            reports=reports,
        )


def _way(one: Configuration) -> Iterator[tuple[int, float, float, int]]:
    """Of each report its step, rate, value without luck, and what stands for the rates up to there."""
    rates, key, before = one.learning_rates(STEPS), 0, 0
    for step in report_points(STEPS):
        key = zlib.crc32(np.array(rates[before:step]).tobytes(), key)
        off = math.log(max(fmean(rates[:step]), 1e-9) / 0.003)
        value = 0.3 + 0.05 * off**2 + 1.5 * math.exp(-4.0 * step / STEPS) + 0.2 * min(1.0, rates[step - 1] / 0.003)
        yield step, rates[step - 1], min(value, 2.3), key
        before = step


def searched(world: World, spec: AdmittedJob, runs: int) -> list[Trial]:
    """The whole runs of a search that follows what it sees, the baseline first."""
    random, space = np.random.default_rng(world.number), coordinates(spec)
    found = [world.trial(0, "baseline", baseline(spec, steps=STEPS).configuration, OF_SEARCH)]
    while len(found) <= runs:
        drawn = space.draw(RandomTrial(random))
        if len(found) > ANYWHERE:
            leaders = sorted(found, key=lambda t: t.value or 0.0)[:LEADERS]
            leader = leaders[random.integers(LEADERS)].configuration
            near = list(neighbours(space, leader, STEPS, random))
            drawn = near[random.integers(len(near))]
        if drawn not in world.known:
            found.append(world.trial(len(found), "search", drawn, OF_SEARCH))
    return found


def confirmed(
    world: World, spec: AdmittedJob, past: Sequence[Trial], ends: Ends, *, everybody: bool
) -> tuple[float, int]:
    """What the answer lies behind the best run of the list, and the runs that were bought."""
    chosen = candidates(spec, past, steps=STEPS, ends=ends)
    history, fresh = list(past), [dict[int, float]() for _ in chosen]
    while True:
        place = next_to_run(
            fresh,
            [len(values) for values in fresh],
            spec.confirm.seeds,
            baseline=next((i for i, t in enumerate(chosen) if t.role == "baseline"), None),
            searched={i: t.value for i, t in enumerate(chosen) if t.value is not None},
            expected=() if everybody else [ends[t.configuration] for t in chosen],
            most=math.inf if everybody else spec.confirm.runs,
        )
        if place is None:
            break
        seed = 1 + len(fresh[place])
        history.append(world.trial(len(history), "confirm", chosen[place].configuration, seed))
        fresh[place][seed] = history[-1].value or 0.0
    found = best(spec, history, steps=STEPS, full_runs=0.0)
    assert found is not None
    least = min(world.truth(t.configuration) for t in past)
    return world.truth(found.configuration) - least, len(history) - len(past)


def jobs(number: int, noise: float, runs: int, tops: Sequence[int]) -> dict[str, tuple[float, int]]:
    """One list, confirmed in every way: the loss, in spreads of the ten best, and the runs."""
    spec = job(3)
    silent = searched(World(number), spec, runs)
    spread = float(np.std(sorted(t.value or 0.0 for t in silent)[:TEN]))
    world = World(number, noise * spread)
    past = searched(world, spec, runs)
    values, ends = {t.configuration: t.value or 0.0 for t in past}, expected_ends(spec, past, steps=STEPS)
    found = {"by value": confirmed(world, spec, past, values, everybody=True)}
    for top in tops:
        found[f"expected, {top}"] = confirmed(world, job(top), past, ends, everybody=False)
    return {way: (loss / spread, bought) for way, (loss, bought) in found.items()}


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--runs", type=int, default=40, help="whole runs of a list")
    parser.add_argument("--noise", default="0.1,0.3,1,3")
    parser.add_argument("--top", default="3,5")
    args = parser.parse_args()
    tops = [int(top) for top in args.top.split(",")]
    ways = ["by value", *(f"expected, {top}" for top in tops)]
    print("| noise | " + " | ".join(f"{way}: loss | runs" for way in ways) + " |\n|" + " --- |" * (1 + 2 * len(ways)))
    for noise in map(float, args.noise.split(",")):
        found = [jobs(n, noise, args.runs, tops) for n in range(args.jobs)]
        cells = []
        for way in ways:
            loss = np.array([one[way][0] for one in found])
            cells.append(f"{loss.mean():.2f} ± {loss.std() / math.sqrt(len(loss)):.2f}")
            cells.append(f"{fmean(one[way][1] for one in found):.1f}")
        print(f"| {noise:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
