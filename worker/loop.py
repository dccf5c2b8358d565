"""The worker's loop: claim a trial, train it, finish it; with none to claim, ask the search what a job needs next.

Every write goes through `Worker._write`, which tries again with back-off while the database is away. Stopping is one
event, checked between trials here and at every step of a training; a trial in flight is then released, not failed.
"""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import torch
from sqlalchemy.orm import Session
from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, stop_when_event_set
from tenacity import wait_exponential as exponential

from lrtune import logs, search
from lrtune.errors import Conflict, LrtuneError, NewerJob, NotFound, TaskError, UnreadableJob
from lrtune.store import (
    Database,
    budgets,
    datasets,
    decisions,
    events,
    histories,
    jobs,
    leases,
    schema,
    shares,
    tasks,
    thinking,
    warm_start,
    workers,
)
from lrtune.store.database import AWAY, clock, in_a_line
from lrtune.task import Task
from lrtune.wire.job import TaskSpec
from lrtune.wire.results import JobState, Trial, TrialState, WarmStartTrial
from worker import commands
from worker.attempt import Attempt, Means
from worker.clocks import wait_for_agreement
from worker.optimizers import with_package, without_package
from worker.parallel import Member
from worker.schemas import Schema
from worker.settings import Settings
from worker.sharing import Sharing
from worker.tasks import offered, own, prepare
from worker.teams import Here
from worker.together import Cohorts
from worker.traces import words
from worker.trainer import Outcome, train

SOON = 0.1  # seconds until an idle worker looks again where somebody thinks
log = logging.getLogger("lrtune.worker")
T = TypeVar("T")


class Worker:
    """One process on one device."""

    def __init__(self, settings: Settings, stop: threading.Event, teams: Here | None = None) -> None:
        self.id = f"{socket.gethostname()[:60]}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self.device = device(settings.device)
        self._settings, self._stop = settings, stop
        self._warm_start: dict[str, list[WarmStartTrial]] = {}  # of the job that was moved on last
        self._left = set[str]()  # jobs of newer releases that the log has named
        self._teams = teams or Here(settings)
        self._own = self._teams.own
        self._tasks = [*offered(), *self._own]
        self._commands = commands.fitting(commands.find(settings.commands), self._teams.nodes)
        self._database = Database(settings.database_url)
        self._ttl = timedelta(seconds=settings.lease_seconds)
        self._retrying = Retrying(
            retry=retry_if_exception_type(AWAY),
            wait=exponential(multiplier=0.25, max=5),
            stop=stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            before_sleep=_say,
            reraise=True,
        )
        kind = self.device.type
        self._able = shares.Able([*self._tasks], [*self._commands], without_package(), kind, memory_gb(self.device))
        self._running = commands.Commands(self._commands, self.id, stop, self._write, self._teams)
        self._sharing = Sharing(settings, self.device, self._write, self._teams.place)
        self._decided = decisions.Timed()
        self._means = Means(self.id, self._database, self._ttl, stop, self._write, self._decided)
        self._cohorts = Cohorts(settings.lanes, self.device, self._means, self._sharing)

    def work(self) -> None:
        """Run trials until asked to stop."""
        try:
            fits = Schema(partial(self._write, schema.found), self._stop)
            if not (fits.wait() and self._teams.ready()):
                return
            clocks = partial(workers.clocks, host=socket.gethostname())
            wait_for_agreement(partial(self._write, clocks), self._stop)
            self._write(self._sign_in)
            log.info("worker %s on %s is ready", self.id, self.device)
            while fits.wait() and self._teams.ready():
                if not self._turn():
                    poll = self._settings.poll_seconds
                    self._stop.wait(min(SOON, poll) if self._write(thinking.going_on) else poll)
            self._write(lambda tx: workers.sign_out(tx, self.id))
        except AWAY:
            if not self._stop.is_set():
                raise
            log.warning("stopped while the database was away")
        finally:
            self._running.close()
            self._database.dispose()

    def _turn(self) -> bool:
        """For the job whose turn it is: train a trial, or see what it needs next. False where nothing can be done."""
        passed = set[int]()
        if self._commands:
            self._running.tidy(self._write(partial(jobs.for_commands, commands=self._commands)))
        while not self._stop.is_set():
            try:
                found = self._write(partial(self._next, passed=passed))
            except NewerJob:  # since a moment ago: it is left to others in the next round
                continue
            except UnreadableJob as error:
                self._fail(error.job, str(error))
                continue
            if found is None:
                continue
            lease, turn = found
            if lease is not None:
                with logs.about(job=lease.job_id, trial=lease.trial.number, worker=self.id):
                    self._run(lease)
                return True
            if turn is None:
                return False
            if (self._running.trained if turn.command else self._moved_on)(turn.id):
                return True
            passed.add(turn.seq)
        return True

    def _next(self, tx: Session, passed: set[int]) -> tuple[leases.Lease | None, shares.Next | None] | None:
        """A trial to train, or a job to think about, or one to train a trial of with a command; or neither.

        None where it is to be asked again.
        """
        if leases.requeue(tx, now=clock(tx)):
            return None
        while turn := shares.whose_turn(tx, self._able, now=clock(tx), skip=passed):
            if self._leaves(tx, turn):
                passed.add(turn.seq)
                continue
            if turn.command or (turn.undecided and thinking.begin(tx, turn.id, self.id)):
                break
            if lease := leases.claim(tx, self.id, ttl=self._ttl, job_id=turn.id, able=self._able):
                workers.seen(tx, self.id, job=lease.job_id, trial=lease.trial.number)
                return lease, None
            passed.add(turn.seq)  # somebody was quicker
        workers.seen(tx, self.id, job=None, trial=None)
        return None, turn

    def _leaves(self, tx: Session, turn: shares.Next) -> bool:
        """Whether a job is left to workers of the newer release that wrote it; the log says so once."""
        if schema.newer(turn.release):
            try:
                jobs.admitted(tx, turn.id)
            except NewerJob as error:
                if turn.id not in self._left:
                    log.warning("%s", error)
                self._left.add(turn.id)
                return True
        return False

    def _sign_in(self, tx: Session) -> None:
        host, device = socket.gethostname(), str(self.device)
        able = [*self._tasks, *self._commands, *map(workers.able, with_package())]
        has = workers.Device(device, self._able.kind, self._able.memory_gb, self._teams.count(self.device))
        workers.sign_in(tx, self.id, host=host, pid=os.getpid(), device=has, tasks=able)
        mine = [own.summary(name, cls) for name, cls in self._own.items()]
        tasks.announce(tx, [*mine, *(one.announced(name) for name, one in self._commands.items())])

    def _write(self, verb: Callable[[Session], T]) -> T:
        """Do a verb in a transaction of its own, and again while the database is away."""

        def once() -> T:
            with self._database.write() as tx:
                return verb(tx)

        return self._retrying(once)

    def _run(self, lease: leases.Lease) -> None:
        """Train a trial, and others together with it where that pays, and write how each ended."""
        attempt, mates = Attempt(self._means, lease), list[Attempt]()
        how: Outcome | BaseException
        try:
            task = self._prepared(attempt)
            mates = self._cohorts.mates(attempt, task)
            if mates:
                self._cohorts.train([attempt, *mates], task)
                return
            how = self._train(attempt, task)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a task may even call sys.exit(): that ends its trial, not this worker
            if mates:
                raise
            how = error
        attempt.end(how)

    def _prepared(self, attempt: Attempt) -> Task:
        """A trial's task; what it says of its data goes into the job's log."""
        lease = attempt.lease
        task = prepare(lease.spec.task, self._settings.data_dir, self._own)
        if lease.trial.number == 0 and not lease.trial.start:
            for note in getattr(task, "notes", ()):
                attempt.say(note)
        return task

    def _train(self, attempt: Attempt, task: Task) -> Outcome:
        lease = attempt.lease
        cache = self._sharing.cache(lease, task)
        with closing(cache) if cache else nullcontext(), self._team(lease) as member:
            outcome = train(
                task,
                lease.trial,
                metric=lease.spec.metric,
                device=self.device,
                on_report=attempt.on_report,
                should_stop=attempt.should_stop,
                training=lease.spec.training,
                say=attempt.say,
                say_once=attempt.say_once,
                member=member,
                cache=cache,
            )
            if cache and outcome.state is TrialState.DIVERGED:
                cache.forget()
            return outcome

    def _team(self, lease: leases.Lease) -> AbstractContextManager[Member | None]:
        """Processes on the other devices that a trial asks for."""
        if lease.spec.training.devices == 1:
            return nullcontext()
        return self._teams.team(lease.spec, lease.trial, self.device)

    def _moved_on(self, job_id: str) -> bool:
        """Do one thing that a job needs next: begin or resume trials, or end the job. False when there is nothing.

        A job that cannot go on is failed: it must not stand in the way of the others.
        """
        nothing = None
        try:
            nothing = self._advance(job_id, self._cohorts.wanted(job_id))
        except (*AWAY, KeyboardInterrupt):
            raise
        except (NotFound, Conflict, NewerJob) as error:
            log.info("job %s was changed meanwhile: %s", job_id, error)
        except BaseException as error:  # a task that is asked for its epochs may do anything
            log.exception("job %s cannot go on", job_id)
            reason = str(error) if isinstance(error, LrtuneError) else words(error)
            self._fail(job_id, reason)
        made = self._decided.take()

        def end(tx: Session) -> None:
            thinking.end(tx, job_id, self.id, events=nothing)
            decisions.add(tx, made)

        self._write(end)
        return nothing is None

    def _fail(self, job_id: str, reason: str) -> None:
        self._write(lambda tx: jobs.end(tx, job_id, JobState.FAILED, reason=datasets.called(tx, reason, job=job_id)))

    def _advance(self, job_id: str, lanes: int) -> int | None:
        """The same, for so many trials at a time; where there is nothing to do, how long the job's log was then."""

        def read(tx: Session) -> tuple[jobs.Outline, list[Trial], datetime | None, search.Beginnings, int, int]:
            lines, begun = events.count(tx, job_id), self._sharing.beginnings(tx, job_id)
            job, history = jobs.outline(tx, job_id), histories.of(job_id).read(tx)
            since = budgets.extended_at(tx, job_id, history)
            return job, history, since, begun, thinking.wanted(tx, job_id), lines

        job, history, since, begun, wanted, lines = self._write(read)
        if job.row.steps is None:
            self._resolve(job_id, job.spec.task, job.spec.horizon.epochs or 1.0)
            return None
        if job_id not in self._warm_start:  # read once, because it stays as it was when the job was submitted
            self._warm_start = {
                job_id: self._write(lambda tx: warm_start.read(tx, job.spec, before=job.row.created_at))
            }
        with self._decided.deciding("suggestion"):
            step = search.advance(
                job.spec,
                history,
                steps=job.row.steps,
                seconds=job.seconds,
                warm_start=self._warm_start[job_id],
                continued=self._settings.state_bytes != 0,
                beginnings=begun,
                waiting=max(wanted, lanes),
                extended_at=since,
                stopped=job.row.stopped_at is not None,
            )
        if step.nothing_to_do:
            return lines
        self._write(lambda tx: jobs.carry_out(tx, job_id, step, known=job.row.decisions))
        if 0 < (made := bool(step.proposal) + len(step.more)) < lanes:
            self._advance(job_id, lanes - made)  # a search may decide one at a time
        return None

    def _resolve(self, job_id: str, task: TaskSpec, epochs: float) -> None:
        """Turn a horizon in epochs into steps, which only one who has the task and its data can."""
        steps = max(2, round(epochs * prepare(task, self._settings.data_dir, self._own).steps_per_epoch))
        self._write(lambda tx: jobs.set_steps(tx, job_id, steps))


def _say(state: RetryCallState) -> None:
    """Why a write is tried again, in one line of the log."""
    error = state.outcome.exception() if state.outcome else None
    log.warning("the database does not answer, trying again in %.3g s: %s", state.upcoming_sleep, in_a_line(error))


def device(name: str) -> torch.device:
    """The device of a setting; "auto", and "all" in one worker, is a GPU where there is one. Raises TaskError."""
    try:
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name in ("auto", "all") else name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TaskError(
            f"LRTUNE_DEVICE: found {name!r}; accepted is auto, all, cpu or a GPU of this host ({reason})"
        ) from None
    return found


def memory_gb(found: torch.device) -> float:
    """How much memory a device has, in units of 10^9 bytes; a CPU that of its host."""
    if found.type == "cuda":
        return float(torch.cuda.get_device_properties(found).total_memory) / 1e9
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
