"""What deciding costs beside training: `python -m benchmarks.deciding --seconds 2,10,60 --workers 1,4,16`.

A job over all its default schedules is decided by the search itself; training is simulated, on a clock of its own, and
costs nothing: a run takes so many seconds, and a stage its part of that. A decision takes what it took this process
(CPU seconds, one thread). As in the service one worker decides for all who wait, and where many train short runs also
ahead for those (`lrtune/store/shares.py`); who is free meanwhile takes what lies ready, else it waits. `deciding` is
the share of the workers' time that went into decisions and into waiting for them; what they wait for at the end, when
others train the last of the budget, is not counted. `a decision` is the mean, `best` the best value that was found.
"""

import argparse
import heapq
import json
import math
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from threadpoolctl import threadpool_limits

from lrtune import search
from lrtune.store import shares
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Report, Trial, TrialState, report_points

STEPS = 1000


def job(full_runs: float, seed: int) -> AdmittedJob:
    """A job that leaves everything as it is, but without confirming runs: those are no decisions of the search."""
    return AdmittedJob.model_validate(
        {
            "task": "digits",
            "metric": {"name": "val_loss", "goal": "minimize", "range": [0, None]},
            "horizon": {"steps": STEPS},
            "budget": {"full_runs": full_runs},
            "search": {"seed": seed},
            "confirm": {"top": 0},
        }
    )


def loss(configuration: Configuration, until: int) -> list[Report]:
    """Made-up reports: best at one mean rate, better once the rate has come down, above a rate of 0.1 nothing."""
    rates, reports = configuration.learning_rates(STEPS), []
    for step in report_points(STEPS):
        if step > until:
            break
        off = math.log(max(fmean(rates[:step]), 1e-9) / 0.003)
        value = 0.3 + 0.1 * off**2 + 1.5 * math.exp(-4.0 * step / STEPS) + 0.3 * min(1.0, rates[step - 1] / 0.003)
        reports.append(Report(step=step, learning_rate=rates[step - 1], metrics={"val_loss": min(value, 2.3)}))
    return reports


@dataclass
class Shop:
    """A job, its trials, and the workers that train them on a simulated clock."""

    spec: AdmittedJob
    seconds: float  # of one full run
    workers: int
    history: list[Trial] = field(default_factory=list)
    ready: deque[int] = field(default_factory=deque)  # trials that wait
    busy: list[tuple[float, int]] = field(default_factory=list)  # when a trial's stage ends, and its number
    free: list[float] = field(default_factory=list)  # since when each worker that does not train waits
    decisions: list[float] = field(default_factory=list)  # what each took
    now: float = 0.0
    trained: float = 0.0
    waited: float = 0.0  # for decisions, all workers together
    idle: bool = False  # nothing was to be decided, and nothing has happened since

    def run(self) -> None:
        """Until the search is over and everybody is done."""
        self.free = [0.0] * self.workers
        while True:
            if self.free and self._undecided():
                self._think()
            elif self.free and self.ready:
                self._take()
            elif self.busy:
                self._end()
            else:
                return

    @property
    def best(self) -> float:
        """The best whole run."""
        return min(t.value for t in self.history if t.value is not None and t.completed(STEPS))

    def _undecided(self) -> bool:
        """As `shares` asks it before a free worker takes a trial that waits."""
        ahead = shares.ahead(self.seconds, len(self.busy))
        return not self.idle and (not self.ready or (ahead > 0 and len(self.busy) >= 2 * len(self.ready)))

    def _think(self) -> None:
        """One free worker decides, on what is known now; others end meanwhile, and take what lies ready or wait."""
        since = self.free.pop()
        wanted = len(self.free) + 1 + shares.ahead(self.seconds, len(self.busy)) - len(self.ready)
        began = time.process_time()
        step = search.advance(self.spec, self.history, steps=STEPS, seconds=self.now, waiting=max(1, wanted))
        took = time.process_time() - began
        until = self.now + took
        while self.busy and self.busy[0][0] <= until:
            self._end()
            if self.ready:
                self._take()
        self.now = until
        self.free.append(since)
        asked = [one for one in (step.proposal, *step.more) if one]
        self.idle = not asked
        if self.idle:  # what is waited for now is what others train
            self.waited += took
            self.free = [self.now] * len(self.free)
        for one in asked:
            self.decisions.append(took / len(asked))
            self.ready.append(self._planned(one))

    def _planned(self, asked: Proposal) -> int:
        number = len(self.history) if asked.resume is None else asked.resume
        stage = {"state": TrialState.WAITING, "until": asked.until, "decision": len(self.decisions) - 1}
        if asked.resume is None:
            what = asked.model_dump(include={"role", "seed", "horizon"}) | {"configuration": asked.configuration}
            self.history.append(Trial.model_validate({"number": number, **what, **stage}))
        else:
            was = self.history[number]
            self.history[number] = was.model_copy(update={**stage, "start": was.step})
        return number

    def _take(self) -> None:
        """Whoever has waited longest trains what has."""
        self.free.sort(reverse=True)
        self.waited += self.now - self.free.pop()
        number = self.ready.popleft()
        trial = self.history[number]
        self.history[number] = trial.model_copy(update={"state": TrialState.RUNNING})
        takes = ((trial.until or trial.horizon) - trial.start) / STEPS * self.seconds
        self.trained += takes
        heapq.heappush(self.busy, (self.now + takes, number))

    def _end(self) -> None:
        self.now, number = heapq.heappop(self.busy)
        self.free.append(self.now)
        self.idle, trial = False, self.history[number]
        step = trial.until or trial.horizon
        reports = loss(trial.configuration, step)
        state = TrialState.PAUSED if trial.until else TrialState.COMPLETE
        value = reports[-1].metrics["val_loss"]
        found: dict[str, Any] = {"state": state, "step": step, "reports": reports, "value": value}
        self.history[number] = trial.model_copy(update=found)


@dataclass(frozen=True)
class Cost:
    """What one job cost, in seconds."""

    seconds: float
    workers: int
    decisions: int
    trials: int
    deciding: float
    waited: float
    trained: float
    lasted: float
    best: float

    @property
    def share(self) -> float:
        """Of the workers' time that went into deciding, or into waiting for a decision."""
        return self.waited / (self.waited + self.trained)


def cost(seconds: float, workers: int, full_runs: float, seed: int) -> Cost:
    """Let one job be done."""
    shop = Shop(job(full_runs, seed), seconds, workers)
    shop.run()
    took, trials = shop.decisions, len(shop.history)
    return Cost(seconds, workers, len(took), trials, sum(took), shop.waited, shop.trained, shop.now, shop.best)


def main() -> None:
    """Print a line for each length of runs and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", default="2,10,60", help="of a full run")
    parser.add_argument("--workers", default="1,4,16")
    parser.add_argument("--full-runs", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    threadpool_limits(1)
    print("| a run | workers | decisions | trials | a decision | deciding | job | best |\n|" + " --- |" * 8, flush=True)
    costs = []
    for seconds in map(float, args.seconds.split(",")):
        for workers in map(int, args.workers.split(",")):
            one = cost(seconds, workers, args.full_runs, args.seed)
            costs.append(asdict(one) | {"share": one.share})
            mean = one.deciding / one.decisions
            cells = (
                f"{one.decisions} | {one.trials} | {mean:.2f} s | {one.share:.1%} | {one.lasted:.0f} s | {one.best:.4f}"
            )
            print(f"| {seconds:g} s | {workers} | {cells} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(costs, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
