"""How long a job waits for its next suggestion, and for the forecast's verdict on a running trial.

    python -m benchmarks.suggestions --trials 10,100,500 --json out.json

The job is the smallest one, over all its default schedules, with a made-up history: seven trials in ten complete, two
stopped, one diverged, each with its reports. The rules are for `curve`: under 0.3 s at 100 trials, under 1 s at 500.
`verdict` is the first of a process, of the `forecast` pruner, on a hopeless trial half-way: models are fitted, and some
of the audit is replayed; `again` is one from the models that are kept, once the audit is known. CPU seconds of one
thread, as in a worker; nothing is read from a database.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
from threadpoolctl import threadpool_limits

from lrtune import search
from lrtune.search.engine.early_stop import MOST_AUDITED, REPLAYED
from lrtune.search.engine.kept_models import KeptModels
from lrtune.search.studies.draw import RandomTrial
from lrtune.search.studies.space import coordinates
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Report, Trial, TrialState

STEPS = 1000
RULES = {100: 0.3, 500: 1.0}  # seconds for `curve`, by trials
STATES = (*("complete",) * 7, *("stopped",) * 2, "diverged")


@dataclass(frozen=True)
class Timing:
    """One kind of question at one number of trials, in seconds; `limit` is the rule, where there is one."""

    what: str
    trials: int
    median: float
    least: float
    limit: float | None = None


def job(sampler: str, pruner: str = "none") -> AdmittedJob:
    """The smallest job, with a given search."""
    return AdmittedJob.model_validate(
        {
            "task": "digits",
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": STEPS},
            "search": {"sampler": sampler, "pruner": pruner},
        }
    )


def loss(configuration: Configuration, share: float) -> float:
    """A made-up loss after a share of a run: best at one mean rate, and better once the rate has come down."""
    rates = configuration.learning_rates(STEPS)
    seen = rates[: max(1, round(share * STEPS))]
    off = math.log(fmean(seen) / 0.003)
    return 0.3 + 0.1 * off**2 + 1.5 * (1.0 - share) ** 2 + 0.3 * min(1.0, seen[-1] / 0.003)


def trial(number: int, configuration: Configuration, state: str, share: float) -> Trial:
    """A trial that came so far, with its reports."""
    points = range(1, round(share * REPORTS) + 1)
    reports = [
        Report(step=i * STEPS // REPORTS, learning_rate=0.001, metrics={"val_loss": loss(configuration, i / REPORTS)})
        for i in points
    ]
    return Trial(
        number=number,
        decision=number,
        role="search" if number else "baseline",
        state=TrialState(state),
        configuration=configuration,
        seed=0,
        horizon=STEPS,
        step=round(share * STEPS),
        value=loss(configuration, 1.0) if state == "complete" else None,
        reports=reports,
    )


def history(trials: int) -> list[Trial]:
    """A job's trials: random configurations, the first of them complete so that there is something to learn from."""
    random = RandomTrial(np.random.default_rng(0))
    space, made = coordinates(job("random")), [search.suggest(job("random"), [], steps=STEPS).configuration]
    made += [space.draw(random) for _ in range(trials - 1)]
    states = ["complete" if n < 3 else STATES[n % len(STATES)] for n in range(trials)]
    shares = {"complete": 1.0, "stopped": 0.5, "diverged": 0.2}
    return [trial(n, one, state, shares[state]) for n, (one, state) in enumerate(zip(made, states, strict=True))]


def stops(spec: AdmittedJob, past: Sequence[Trial], one: Trial, kept: KeptModels | None = None) -> str:
    """Why a running trial is to stop, if it is."""
    return search.verdict(spec, past, one, steps=STEPS, kept=kept).stop


def hopeless(number: int) -> Trial:
    """A trial half-way at a rate that is far too low."""
    made = search.suggest(job("random"), [], steps=STEPS).configuration.model_copy(update={"learning_rate": 1e-6})
    return trial(number, made, "running", 0.5)


def clocked(what: str, trials: int, asks: Sequence[Callable[[], object]], limit: float | None = None) -> Timing:
    """How long each of some questions takes."""
    times = []
    for ask in asks:
        began = time.process_time()
        ask()
        times.append(time.process_time() - began)
    return Timing(what, trials, median(times), min(times), limit)


def suggestions(sampler: str, trials: int, repeats: int) -> Timing:
    """What is tried next, asked anew each time."""
    spec, past = job(sampler), history(trials)
    limit = RULES.get(trials) if sampler == "curve" else None
    return clocked(f"suggest {sampler}", trials, [lambda: search.suggest(spec, past, steps=STEPS)] * repeats, limit)


def verdicts(trials: int, repeats: int) -> list[Timing]:
    """The forecast's verdict, the first of a process, and once it knows what there is to know."""
    spec, limit, whole, kept = job("curve", "forecast"), RULES.get(trials), history(trials), KeptModels()
    # The audit's draw belongs to a trial's number: this one's was not drawn, so all of the verdict is asked for.
    bad = next(one for one in map(hopeless, range(trials, trials + 100)) if stops(spec, history(8), one))
    first = clocked("verdict", trials, [lambda: stops(spec, whole, bad)] * repeats, limit)
    for _ in range(MOST_AUDITED // REPLAYED):
        stops(spec, whole, bad, kept)
    return [first, clocked("verdict again", trials, [lambda: stops(spec, whole, bad, kept)] * repeats, limit)]


def row(timing: Timing) -> str:
    """One line of the table."""
    rule = "" if timing.limit is None else f"{timing.limit:.1f} s"
    share = "" if timing.limit is None else f"{timing.median / timing.limit:.2f}"
    return f"| {timing.what} | {timing.trials} | {timing.median:.3f} s | {timing.least:.3f} s | {rule} | {share} |"


def main() -> None:
    """Time every question, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="10,100,500")
    parser.add_argument("--samplers", default="curve,tpe,gp")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    threadpool_limits(args.threads)
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {load}")
    print("\n| question | trials | median | least | rule | median / rule |\n|" + " --- |" * 6, flush=True)
    timings = []
    for trials in map(int, args.trials.split(",")):
        found = [suggestions(sampler, trials, args.repeats) for sampler in args.samplers.split(",")]
        for timing in found + verdicts(trials, args.repeats):
            print(row(timing), flush=True)
            timings.append(timing)
    if args.json:
        args.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
