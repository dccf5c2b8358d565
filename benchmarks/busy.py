"""How busy many workers are at one job of short stages: `python -m benchmarks.busy [--workers 64]`.

Each worker does what `worker/loop.py` does, with the real store and the real search, but on a clock of its own: a stage
takes about two seconds of it (1.6 to 2.4), and a decision, a claim and the end of a stage the CPU time that they take
here. So sixty-four workers need one core. Printed is the share of the time in which the workers trained, once all had
begun.
"""

import argparse
import heapq
import math
import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import migrations
from lrtune import search
from lrtune.store import Database, events, histories, jobs, leases, shares, thinking, workers
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import NextStep, Report, Trial, TrialState, report_points

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEPS, STAGE, SOON, POLL = 1000, 2.0, 0.1, 0.5  # the last as in `worker/loop.py`
ABLE = shares.Able(["digits"])
JOB = {
    "task": "digits",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "horizon": {"steps": STEPS},
    "budget": {"full_runs": 1000},
}


def reports(trial: Trial) -> list[Report]:
    """What a trial reports in its stage: better at rates around 3e-3."""
    rate = trial.configuration.learning_rate
    off = (math.log10(rate) + 2.5) ** 2
    points = (step for step in report_points(trial.horizon) if trial.start < step <= (trial.until or trial.horizon))
    return [
        Report(step=step, learning_rate=rate, metrics={"val_loss": 0.2 + 0.1 * off + (1 + off) * 20 / (20 + step)})
        for step in points
    ]


class Crowd:
    """Workers at one job, and what they do with their time."""

    def __init__(self, database: Database, count: int) -> None:
        self.database, self.count = database, count
        self.spent = {"waiting": 0.0, "thinking": 0.0, "claims and ends of stages": 0.0}
        self.stages = self.decisions = 0
        self.chance = random.Random(0)
        with database.write() as tx:
            self.job = jobs.create(tx, AdmittedJob.model_validate(JOB), now=NOON)[0].id
            for number in range(count):
                workers.sign_in(tx, f"w{number}", host="h", pid=1, device="cpu", tasks=["digits"], now=NOON)

    def run(self, warm: float, seconds: float) -> float:
        """The share of their time in which workers trained, from `warm` seconds on, for so many."""
        queue: list[tuple[float, int]] = [(0.01 * number, number) for number in range(self.count)]
        held: dict[int, leases.Lease] = {}
        plans: dict[int, tuple[NextStep, int, int]] = {}
        trained = 0.0
        while queue:
            at, number = heapq.heappop(queue)
            if at > warm + seconds:
                break
            began, now = time.process_time(), NOON + timedelta(seconds=at)
            if number in plans:
                self._carry_out(f"w{number}", *plans.pop(number))
            if number in held:
                self._end(held.pop(number), now)
            found = self._next(f"w{number}", now)
            took, what = time.process_time() - began, STAGE * self.chance.uniform(0.8, 1.2)
            if isinstance(found, leases.Lease):
                held[number] = found
                self.stages += 1
                start = max(at + took, warm)
                trained += max(0.0, min(at + took + what, warm + seconds) - start)
            elif found is None:
                what = SOON if plans else POLL
                self.spent["waiting"] += what
            else:
                plans[number], what = found, 0.0
                self.decisions += 1 + len(found[0].more)
                self.spent["thinking"] += took
            self.spent["claims and ends of stages"] += 0.0 if number in plans else took
            heapq.heappush(queue, (at + took + what, number))
        return trained / (self.count * seconds)

    def _next(self, name: str, now: datetime) -> leases.Lease | tuple[NextStep, int, int] | None:
        """A trial to train, or a decision that has been thought out, or nothing to do."""
        with self.database.write() as tx:
            while turn := shares.whose_turn(tx, ABLE, now=now):
                if turn.undecided and thinking.begin(tx, turn.id, name, now=now):
                    workers.seen(tx, name, job=None, trial=None, now=now)
                    break
                if lease := leases.claim(tx, name, ttl=HOUR, job_id=turn.id, now=now):
                    workers.seen(tx, name, job=lease.job_id, trial=lease.trial.number, now=now)
                    return lease
            else:
                workers.seen(tx, name, job=None, trial=None, now=now)
                return None
            lines, wanted = events.count(tx, self.job), thinking.wanted(tx, self.job, now=now)
            known = histories.of(self.job).read(tx)
            job = jobs.outline(tx, self.job)
        step = search.advance(job.spec, known, steps=STEPS, seconds=0.0, waiting=wanted)
        return step, job.row.decisions, lines

    def _carry_out(self, name: str, step: NextStep, known: int, lines: int) -> None:
        with self.database.write() as tx:
            if step.nothing_to_do:
                thinking.end(tx, self.job, name, events=lines)
                return
            jobs.carry_out(tx, self.job, step, known=known)
            thinking.end(tx, self.job, name)

    def _end(self, lease: leases.Lease, now: datetime) -> None:
        found, trial = reports(lease.trial), lease.trial
        with self.database.write() as tx:
            leases.report(tx, lease, found, ttl=HOUR, now=now)
            if trial.until is None:
                value = found[-1].metrics["val_loss"]
                leases.finish(tx, lease, TrialState.COMPLETE, value=value, step=trial.horizon, now=now)
            else:
                leases.pause(tx, lease, value=None, step=trial.until, reason="as planned", now=now)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--warm", type=float, default=10.0, help="seconds before it counts: the baseline comes alone")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'lrtune.db'}"
        migrations.upgrade(url)
        crowd = Crowd(Database(url), given.workers)
        busy = crowd.run(given.warm, given.seconds)
    print(f"{given.workers} workers, stages of {STAGE:g} s: {crowd.stages} stages, {crowd.decisions} decisions")
    print(
        f"busy {busy:.1%} of {given.seconds:g} s; in all, the warm-up with it, seconds of workers:", dict(crowd.spent)
    )


if __name__ == "__main__":
    main()
