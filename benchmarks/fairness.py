"""How owners share the workers: `python -m benchmarks.fairness`.

Three owners of weights 1, 1 and 2 submit jobs of 3 to 1,000 full runs, whose runs take from 1 to 9 seconds. Eight
workers take what the store gives them (`lrtune/store/shares.py`), on a clock of its own: nothing is trained, and an
hour takes seconds. While all three want something each is to have its weight's share of the workers' seconds; printed
are the shares, and after how many trials of anybody's each job had its first one, its answer, and its end.
"""

import argparse
import heapq
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert
from sqlalchemy.orm import Session

import migrations
from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine
from lrtune.store import Database, jobs, leases, lookup, shares, tallies, thinking, trials
from lrtune.store.tables import PersonRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import JobState, Proposal, TrialState

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEIGHTS = {"ada": 1.0, "ben": 1.0, "cleo": 2.0}
ABLE = shares.Able(["digits"])
POINT = Configuration(optimizer=Adamw(), learning_rate=1e-3, schedule=Cosine())


@dataclass(frozen=True)
class Wish:
    """A job: whose, of how many full runs, how many seconds each takes, and when it comes."""

    owner: str
    runs: int
    seconds: float
    at: float = 0.0
    priority: int = 0
    steps: int = 100


WISHES = (
    Wish("ada", 1000, 4.0),
    Wish("ada", 3, 4.0, at=200.0),
    Wish("ben", 30, 1.0),
    Wish("ben", 1000, 9.0),
    Wish("cleo", 1000, 2.0),
    Wish("cleo", 300, 5.0, at=100.0, priority=1),
)


@dataclass
class Course:
    """What came of it: seconds by owner, and by job the trials of anybody that had begun before it began, and so on."""

    seconds: dict[str, float] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    answer: dict[int, int] = field(default_factory=dict)
    end: dict[int, int] = field(default_factory=dict)
    came: dict[int, int] = field(default_factory=dict)

    @property
    def begun(self) -> int:
        """How many trials have begun; `order` has the job of each."""
        return len(self.order)

    def share(self, owner: str) -> float:
        """Of all the workers' seconds."""
        return self.seconds[owner] / sum(self.seconds.values())


class Shop:
    """Workers and jobs on a clock of their own."""

    def __init__(self, database: Database, wishes: Sequence[Wish], weights: Mapping[str, float] = WEIGHTS) -> None:
        self.database, self.wishes, self.course = database, wishes, Course()
        self.coming = sorted(range(len(wishes)), key=lambda place: -wishes[place].at)
        self.places: dict[str, int] = {}
        people = [{"name": name, "weight": weight, "created_at": NOON} for name, weight in weights.items()]
        with database.write() as tx:
            tx.execute(insert(PersonRow), people)

    def run(self, workers: int, most: int) -> Course:
        """Let so many trials begin, or all there are."""
        held: dict[int, tuple[leases.Lease, int]] = {}
        queue: list[tuple[float, int]] = [(0.0, worker) for worker in range(workers)]
        while queue and self.course.begun < most:
            at, worker = heapq.heappop(queue)
            now = NOON + timedelta(seconds=at)
            while self.coming and self.wishes[self.coming[-1]].at <= at:
                self._submit(self.coming.pop(), now)
            if worker in held:
                self._finish(*held.pop(worker), now)
            if (found := self._take(f"w{worker}", now)) is not None:
                held[worker] = found
                heapq.heappush(queue, (at + self.wishes[found[1]].seconds, worker))
            elif self.coming or held:
                heapq.heappush(queue, (at + 0.5, worker))
        return self.course

    def _submit(self, place: int, now: datetime) -> None:
        wish = self.wishes[place]
        body = {
            "task": "digits",
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": wish.steps},
            "budget": {"full_runs": wish.runs},
            "priority": wish.priority,
        }
        with self.database.write() as tx:
            made, _ = jobs.create(tx, AdmittedJob.model_validate(body), owner=wish.owner, now=now)
        self.places[made.id] = place
        self.course.came[place] = self.course.begun

    def _finish(self, lease: leases.Lease, place: int, now: datetime) -> None:
        with self.database.write() as tx:
            leases.finish(tx, lease, TrialState.COMPLETE, value=0.1, step=lease.trial.horizon, now=now)
        owner = self.wishes[place].owner
        self.course.seconds[owner] = self.course.seconds.get(owner, 0.0) + self.wishes[place].seconds
        self.course.answer.setdefault(place, self.course.begun)

    def _take(self, worker: str, now: datetime) -> tuple[leases.Lease, int] | None:
        """What a worker does, but for training and for the search."""
        passed = set[int]()
        with self.database.write() as tx:
            while turn := shares.whose_turn(tx, ABLE, now=now, skip=passed):
                place = self.places[turn.id]
                if turn.undecided and thinking.begin(tx, turn.id, worker, now=now):
                    self._decide(tx, turn.id, place, worker, now)
                elif lease := leases.claim(tx, worker, ttl=HOUR, job_id=turn.id, now=now):
                    self.course.first.setdefault(place, self.course.begun)
                    self.course.order.append(place)
                    return lease, place
                else:
                    passed.add(turn.seq)
        return None

    def _decide(self, tx: Session, job_id: str, place: int, worker: str, now: datetime) -> None:
        """Another full run, the end, or to wait."""
        job = lookup.job(tx, job_id)
        known, lines = job.decisions, job.events
        over = sum(count for _, state, count, _ in tallies.counts(tx, job.seq) if state is TrialState.COMPLETE)
        if known < self.wishes[place].runs:
            run = Proposal(configuration=POINT, role="search", seed=known, horizon=job.steps or 1)
            trials.propose(tx, job_id, run, known=known, now=now)
            thinking.end(tx, job_id, worker)
        elif over == known:
            jobs.end(tx, job_id, JobState.SUCCEEDED, reason="", now=now)
            self.course.end[place] = self.course.begun
        else:
            thinking.end(tx, job_id, worker, events=lines)


def main() -> None:
    """Let them share, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'lrtune.db'}"
        migrations.upgrade(url)
        found = Shop(Database(url), WISHES).run(given.workers, given.trials)
    print(f"{given.workers} workers, {found.begun} trials, {sum(found.seconds.values()):.0f} seconds of training")
    for owner, weight in WEIGHTS.items():
        fair = weight / sum(WEIGHTS.values())
        print(f"{owner}: weight {weight:g}, {found.share(owner):.1%} of the seconds, {fair:.0%} is fair")
    print("owner  full runs  seconds each  priority  trials of anybody before its first  its answer  its end")
    for place, wish in enumerate(WISHES):
        waits = [when[place] - found.came[place] if place in when else None for when in (found.first, found.answer)]
        end = found.end[place] - found.came[place] if place in found.end else "-"
        asked = f"{wish.owner:6} {wish.runs:9} {wish.seconds:13g} {wish.priority:9}"
        print(f"{asked} {waits[0]!s:>34} {waits[1]!s:>11} {end:>8}")


if __name__ == "__main__":
    main()
