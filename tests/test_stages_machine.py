"""Workers, the search and a user do anything in any order to one job, and what must hold of its trials always holds."""

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from lrtune.errors import Invalid, JobFinished, LeaseLost
from lrtune.store import Database, budgets, events, histories, jobs, leases, trials
from lrtune.store.tables import JobRow
from lrtune.wire.job import Budget
from lrtune.wire.results import ENDED, OPEN, OVER, JobState, NextStep, Proposal, Report, Role, Trial, TrialState
from tests.leasing import MINUTE, NOON, PLAIN, SPEC

HORIZON, EVERY = SPEC.horizon.steps or 0, 5
DID = ("new", "resume", "claim", "report", "end", "release", "die", "take up", "give up", "hold", "extend")
DID += ("stop", "cancel")
MOST, FIRST, LATELY = 5, 2, 30  # of those on which a verdict rests
OFTEN = (3, 14, 14, 14, 14, 2, 0.7, 6, 0.7, 1, 1, 0.5, 0.1)


class Machine:
    """One job, and all who may do something to it."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self.database, self.chance, self.now = database, chance, NOON
        self.leases: list[leases.Lease] = []
        with database.write() as tx:
            self.job = jobs.create(tx, SPEC, now=NOON)[0].id

    def history(self) -> list[Trial]:
        with self.database.read() as tx:
            return trials.history(tx, self.job)

    def state(self) -> JobState:
        with self.database.read() as tx:
            return jobs.state(tx, self.job)

    def do(self, what: str) -> None:
        """One of `DID`, as far as there is something to do it to. Who has lost a lease hears of it, and no more."""
        self.now += timedelta(seconds=1)
        lease = self.chance.choice(self.leases) if self.leases else None
        try:
            with self.database.write() as tx:
                match what:
                    case "new" | "resume":
                        self.propose(tx, resume=what == "resume")
                    case "claim":
                        if found := leases.claim(tx, "w", ttl=MINUTE, now=self.now):
                            self.leases.append(found)
                    case "report" | "end" | "release" | "take up" if lease:
                        self.train(tx, lease, what)
                    case "die" if lease:
                        self.now += 2 * MINUTE  # everybody who was training has died
                        leases.requeue(tx, now=self.now)
                    case "give up":
                        self.end(tx)
                    case "hold":
                        jobs.pause(tx, self.job) if self.chance.random() < 0.3 else jobs.resume(tx, self.job)
                    case "extend":
                        budgets.extend(tx, self.job, Budget(full_runs=self.chance.randint(1, 99)), now=self.now)
                    case "stop":
                        budgets.stop(tx, self.job, now=self.now)
                    case "cancel":
                        jobs.cancel(tx, self.job, now=self.now)
        except (JobFinished, Invalid):
            pass
        except LeaseLost:
            self.leases = [other for other in self.leases if other is not lease]

    def propose(self, tx: Session, *, resume: bool) -> None:
        history = trials.history(tx, self.job)
        decided = jobs.outline(tx, self.job).row.decisions
        known = decided - (self.chance.random() < 0.1)  # another worker was quicker
        role: Role = self.chance.choice(["search", "search", "confirm"])
        asked = Proposal(configuration=PLAIN, role=role, seed=len(history), horizon=HORIZON, reason="a draw")
        if resume and history:
            paused = [trial for trial in history if trial.state is TrialState.PAUSED]
            one = self.chance.choice(paused if paused and self.chance.random() < 0.8 else history)  # in any state
            asked = asked.model_copy(update={"seed": one.seed, "resume": one.number})
        least = history[asked.resume].step if asked.resume is not None else 0
        until = least + EVERY * self.chance.randint(1, 6)
        before = {trial.number: trial.state for trial in history}
        update = {"until": until if until < HORIZON else None}
        if trials.propose(tx, self.job, asked.model_copy(update=update), known=known, now=self.now):
            assert known == decided
            assert asked.resume is None or before[asked.resume] in (TrialState.PAUSED, TrialState.STOPPED)

    def train(self, tx: Session, lease: leases.Lease, what: str) -> None:
        trial = trials.get(tx, self.job, lease.trial.number)
        end, far = trial.until or HORIZON, trial.step
        match what:
            case "take up" if not [one for one in trial.reports if one.step > trial.start] and far == trial.start:
                found = EVERY * self.chance.randint(trial.start // EVERY, end // EVERY)  # others went on from there
                step, reused = self.chance.choice([(0, 0), (found, found - (trial.start - trial.reused))])
                leases.take_up(tx, lease, step=step, reused=reused, whose=["job-x/1"], now=self.now)
            case "report" if far < end:
                seen = [Report(step=far + EVERY, learning_rate=0.1, metrics={"val_loss": 1.0})]
                leases.report(tx, lease, seen, ttl=MINUTE, now=self.now)
            case "release":
                leases.release(tx, lease, reason="asked to", now=self.now)
            case "end":
                ended = self.chance.choice(["planned", "planned", "planned", "stopped", "diverged", "failed"])
                if ended == "planned" and end < HORIZON:
                    leases.pause(tx, lease, value=1.0, step=end, reason="as planned", now=self.now)
                else:
                    state = TrialState.COMPLETE if ended == "planned" else TrialState(ended)
                    step = {"planned": HORIZON, "failed": trial.start}.get(ended, far)
                    leases.finish(tx, lease, state, value=1.0, step=step, reason=ended, now=self.now)

    def end(self, tx: Session) -> None:
        """As the search does that is over."""
        history = trials.history(tx, self.job)
        known = jobs.outline(tx, self.job).row.decisions
        paused = {trial.number: "worse" for trial in history if trial.state is TrialState.PAUSED}
        if paused:
            jobs.carry_out(tx, self.job, NextStep(stopped=paused), known=known)
        elif not any(trial.state in OPEN for trial in history):
            jobs.carry_out(tx, self.job, NextStep(over=True), known=known)


def check(machine: Machine) -> None:
    history, state = machine.history(), machine.state()
    decisions = [trial.decision for trial in history]
    assert [trial.number for trial in history] == list(range(len(history)))
    assert len(set(decisions)) == len(decisions)
    assert len({trial.run for trial in history}) == len(history)
    with machine.database.read() as tx:
        job = jobs.get(tx, machine.job)
        assert state in OVER or histories.of(machine.job).read(tx) == history
        if history and state not in OVER:
            recent(tx, machine, history)
    assert job.progress.full_runs == pytest.approx(sum(trial.step - trial.reused for trial in history) / HORIZON)
    assert job.progress.trials == Counter(trial.state for trial in history)
    searching = any(one.role != "confirm" and one.state in (*OPEN, TrialState.PAUSED) for one in history)
    confirming = any(one.role == "confirm" for one in history[-1:]) and not searching
    assert (job.progress.phase == "confirm") == (state not in OVER and confirming)
    for trial in history:
        opened = [stage for stage in trial.stages if stage.ended_at is None]
        assert len(opened) == (trial.state is TrialState.RUNNING), trial
        assert (trial.finished_at is not None) == (trial.state in ENDED), trial
        assert trial.cost >= trial.step - trial.reused >= 0, trial
        assert trial.step <= (trial.until or HORIZON), trial
        if trial.state in (TrialState.PAUSED, TrialState.STOPPED, TrialState.COMPLETE):
            assert all(one.step <= trial.step for one in trial.reports), trial
        seen = [stage.decision for stage in trial.stages]
        assert seen == sorted(seen), trial
        whole = [stage.decision for stage in trial.stages if stage.outcome in ("paused", "finished")]
        assert len(set(whole)) == len(whole), trial
        assert state not in OVER or trial.state in ENDED, trial
        if not opened and not any(stage.outcome in ("lost", "released") for stage in trial.stages):
            assert sum(stage.cost for stage in trial.stages) == trial.step - trial.reused, trial
        if trial.state is TrialState.PAUSED:
            assert trial.start == trial.step > 0, trial
            assert trial.stages[-1].outcome in ("paused", "released", "lost"), trial  # a stop pauses what waits


def recent(tx: Session, machine: Machine, history: list[Trial]) -> None:
    """What a verdict rests on are trials as they are, however long the log: few of many, the telling ones of them."""
    own = machine.chance.choice(history).number
    found = histories.of(machine.job).recent(tx, goal="minimize", own=[own])
    numbers = {trial.number for trial in found}
    assert found == [trial for trial in history if trial.number in numbers]
    done = [trial for trial in history if trial.completed(HORIZON) and trial.role == "search"]
    best = min(done, key=lambda trial: (trial.value, trial.number), default=history[0])
    assert {own, best.number, *range(min(FIRST, len(history)))} <= numbers
    lines = events.page(tx, machine.job, after=0, limit=10_000).items
    if len(lines) <= LATELY:
        assert found == history
    else:
        latest = dict.fromkeys(line.trial for line in reversed(lines[-LATELY:]) if line.trial is not None)
        assert {*list(latest)[:MOST]} <= numbers
        assert len(found) <= MOST + FIRST + 2 + sum(trial.state in OPEN for trial in history)


@pytest.fixture(autouse=True)
def logs_are_long_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MOST", MOST), ("FIRST", FIRST), ("LATELY", LATELY)):
        monkeypatch.setattr(histories, name, value)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_to_a_job_its_trials_are_as_they_must_be(sqlite_url: str, seed: int) -> None:
    carried_on(sqlite_url, seed, 100)


def test_what_is_counted_as_trials_end_is_what_a_recount_finds(postgres_url: str) -> None:
    """The same on PostgreSQL, where the counts are kept by statements of its own."""
    carried_on(postgres_url, 4, 60)


def carried_on(url: str, seed: int, times: int) -> None:
    chance = random.Random(seed)
    machine = Machine(Database(url), chance)
    for what in chance.choices(DID, OFTEN, k=times):
        machine.do(what)
        check(machine)
    machine.database.dispose()


def test_two_who_read_a_history_at_once_leave_no_gap_in_it(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has asked for what is new, and another, who began before, ends before the first goes on."""
    machine = Machine(Database(sqlite_url), random.Random(5))
    for _ in range(6):
        machine.do("new")
    history = histories.History(machine.job)

    with machine.database.read() as before:
        before.execute(select(JobRow)).all()  # from here on it sees what is there now
        for _ in range(2):
            machine.do("new")
        asked = history._news

        def overtaken(tx: Session, *given: Any) -> Any:
            found = asked(tx, *given)
            monkeypatch.setattr(history, "_news", asked)
            history.read(before)
            return found

        monkeypatch.setattr(history, "_news", overtaken)
        with machine.database.read() as tx:
            history.read(tx)
            assert [trial.number for trial in history.read(tx)] == list(range(len(machine.history())))
    machine.database.dispose()


def test_of_what_has_changed_nothing_is_kept_as_it_was_however_much_that_is(sqlite_url: str) -> None:
    """More trials end between two verdicts than a verdict rests on."""
    machine = Machine(Database(sqlite_url), random.Random(6))
    history = histories.History(machine.job)
    for what in (*["new"] * 40, *["claim"] * 12):
        machine.do(what)
    with machine.database.read() as tx:
        history.recent(tx, goal="minimize", own=[0], others=False)
    with machine.database.write() as tx:
        for lease in reversed(machine.leases):
            leases.finish(tx, lease, TrialState.COMPLETE, value=1.0, step=HORIZON, now=machine.now)
    with machine.database.read() as tx:
        found = history.recent(tx, goal="minimize", own=[0], others=False)
    now = {trial.number: trial for trial in machine.history()}
    assert found == [now[trial.number] for trial in found]
    machine.database.dispose()
