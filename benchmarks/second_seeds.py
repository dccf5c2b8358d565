"""Whether a search should spend its last runs on second seeds of its leaders, or on new neighbours of the best.

    python -m benchmarks.second_seeds --jobs 4000

A job has trained eight configurations to their end and may train four more runs: new ones beside the leader, or the
leaders again over another seed. Then its best three are confirmed as in a job. All in units of the noise: `spread` is
how far configurations differ, `near` by what share of that a neighbour does from the leader. Regret is what the
answer's true value lies behind the best of all twelve; `runs` are those that confirming has bought on top.
"""

import argparse
import itertools
import math

import numpy as np

from benchmarks.confirming import SEEDS, TOP, Drawn, Setting, ended

FIRST, MORE = 8, 4


def simulated(random: np.random.Generator, spread: float, near: float, again: bool) -> tuple[float, int]:
    """The regret of one job's answer, and the runs that confirming has bought."""
    first = spread * np.abs(random.normal(size=FIRST))
    once = first + random.normal(size=FIRST)
    truth = np.concatenate([first, first[np.argmin(once)] + near * spread * random.normal(size=MORE)])
    luck = random.normal(size=MORE)
    if again:
        leaders = np.argsort(once)[:MORE]
        once[leaders] = (once[leaders] + first[leaders] + luck) / 2
    else:
        once = np.concatenate([once, truth[FIRST:] + luck])
    top = np.argsort(once)[:TOP]
    own = np.array([*truth[top], truth.min() + Setting.behind])
    searched = np.array([*once[top], own[-1] + random.normal()])
    job = ended(Drawn(own, searched, own[:, None] + random.normal(size=(TOP + 1, SEEDS))), bought=True)
    return job.loss + float(own.min() - truth.min()), job.runs


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    args = parser.parse_args()
    print("| spread, near | new: regret | runs | again: regret | runs |\n" + "| --- " * 5 + "|")
    for spread, near in itertools.product((0.3, 1.0, 3.0), (0.1, 0.3, 1.0)):
        cells = []
        for again in (False, True):
            random = np.random.default_rng(1)
            jobs = np.array([simulated(random, spread, near, again) for _ in range(args.jobs)])
            error = jobs[:, 0].std() / math.sqrt(len(jobs))
            cells.append(f"{jobs[:, 0].mean():.3f} ± {error:.3f} | {jobs[:, 1].mean():.1f}")
        print(f"| {spread:g}, {near:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
