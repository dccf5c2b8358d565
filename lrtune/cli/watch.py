"""A job followed in a terminal until it is over: where it stands, its best and its running trials with their curves.

On a screen a table moves; into a file or a pipe go lines, one for everything that deserves one.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lrtune.analysis.words import described, measured
from lrtune.cli.terminal import spark, status
from lrtune.client import Client
from lrtune.errors import LrtuneError, Unavailable
from lrtune.wire.results import ENDED, OVER, Job, Trial, TrialDetail, TrialState

EVERY = 0.5  # seconds before a job is asked for again
LISTED = 2.0  # and before all of its trials are
PATIENCE = 60.0  # seconds for which its server may be away meanwhile
SHOWN = 5  # of the best trials, beside those that run
SURE = 0.02  # of the work must be done before its end is estimated


def follow(client: Client, job_id: str, console: Console, *, check: Callable[[], None] = lambda: None) -> Job:
    """Show a job until it is over. `check` may raise to break off."""
    before: Job | None = None
    table = TrialTable(client)
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
    with live or nullcontext():
        for job in _until_over(client, job_id, check):
            for line in news(before, job, milestones=live is None):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            if live:
                live.update(table.drawn(job), refresh=True)
            before = job
    assert before is not None  # noqa: S101 - it yields once at least
    return before


def _until_over(client: Client, job_id: str, check: Callable[[], None]) -> Iterator[Job]:
    """The job, and again whenever it has changed, until it is over, also while its server restarts."""
    answered, changed, left = time.monotonic(), threading.Event(), threading.Event()
    job = client.get(job_id)
    threading.Thread(target=_listen, args=(client, job_id, changed, left), name="beats", daemon=True).start()
    try:
        yield job
        while job.state not in OVER:
            check()
            time.sleep(EVERY)
            if not changed.is_set():
                continue
            changed.clear()
            try:
                job = client.get(job_id)
                answered = time.monotonic()
                yield job
            except Unavailable:
                changed.set()
                if time.monotonic() - answered > PATIENCE:
                    raise
    finally:
        left.set()


def _listen(client: Client, job_id: str, changed: threading.Event, left: threading.Event) -> None:
    """Say whenever the server says that the job has changed; again and again, for it may restart meanwhile."""
    while not left.is_set():
        with suppress(LrtuneError, RuntimeError):  # whoever asks for the job hears why; or the client was closed
            for _ in client.beats(job_id):
                changed.set()
        changed.set()
        left.wait(EVERY)


def news(before: Job | None, job: Job, *, milestones: bool = False) -> Iterator[str]:
    """What has happened in between that deserves a line; `milestones`: each tenth of the work as well."""
    why, lacked = job.waiting_for or job.reason, before.waiting_for if before else ""
    if before is None or before.state != job.state or job.waiting_for not in ("", lacked):
        yield f"job {job.id} is {job.state}" + (f": {why}" if why else "")
    if before and job.stopped_at and not before.stopped_at:
        yield f"the search of job {job.id} is stopped: what it trains now is trained on, then its answer is confirmed"
    if job.progress.phase == "confirm" and (before is None or before.progress.phase == "search"):
        yield "the search is over; the best few run again over fresh seeds"
    best, known = job.best, before.best if before else None
    if best is not None and (known is None or (known.value, known.trial) != (best.value, best.trial)):
        yield f"best so far: {best.metric} {measured(best.value, best.interval)}, {described(best.configuration)}"
    if milestones and before and int(10 * job.progress.fraction) > int(10 * before.progress.fraction):
        yield status(job)


class TrialTable:
    """The trials of a job that are worth a line, kept once they have ended."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[int, TrialDetail] = {}
        self._trials: list[Trial] = []
        self._listed = -math.inf

    def drawn(self, job: Job) -> RenderableType:
        """The job's bar, its state in words, and a table of trials."""
        bar = Table.grid(padding=(0, 2))
        share = job.progress.fraction
        bar.add_row(
            ProgressBar(total=1.0, completed=share, width=30), f"{share:.0%}", time_left(job, datetime.now(UTC))
        )
        return Group(bar, Text(status(job)), self._table(job))

    def _table(self, job: Job) -> Table:
        name = job.spec.metric.name
        rows = [self._detail(job.id, trial) for trial in picked(self._listing(job.id), job.spec.metric.sign)]
        losses = {row.number: [v for _, v in row.values(name) if v is not None and math.isfinite(v)] for row in rows}
        seen = sorted(value for values in losses.values() for value in values)
        low, high = (seen[0], seen[int(0.9 * (len(seen) - 1))]) if seen else (0.0, 1.0)
        table = Table("", "trial", "state", name, "so far", "learning rate", "configuration", box=None)
        for row in rows:
            mark = "★" if job.best and row.number == job.best.trial else ""
            values, rates = losses[row.number], [rate for _, rate in row.curve]
            value = f"{values[-1]:.5g}" if values else ""
            role = f"{row.number} {row.role}" if row.role != "search" else str(row.number)
            drawn = spark(values, low, high), spark(rates, 0.0, max(rates, default=1.0))
            words = Text(described(row.configuration), overflow="ellipsis", no_wrap=True)
            table.add_row(mark, role, row.state, value, *drawn, words)
        return table

    def _listing(self, job_id: str) -> list[Trial]:
        """All trials, asked for less often than the job: there may be thousands."""
        if time.monotonic() - self._listed > LISTED:
            self._trials, self._listed = list(self._client.trials(job_id)), time.monotonic()
        return self._trials

    def _detail(self, job_id: str, trial: Trial) -> TrialDetail:
        """A trial with its reports; asked for once after it has ended."""
        if trial.number in self._known:
            return self._known[trial.number]
        detail = self._client.trial(job_id, trial.number)
        if detail.state in ENDED:
            self._known[trial.number] = detail
        return detail


def picked(trials: Sequence[Trial], sign: float) -> list[Trial]:
    """The best few of the search, the baseline, and what runs now."""
    searched = [trial for trial in trials if trial.role == "search" and trial.state is TrialState.COMPLETE]
    ranked = sorted((sign * trial.value, trial.number, trial) for trial in searched if trial.value is not None)
    best = [trial for _, _, trial in ranked[:SHOWN]]
    baseline = [trial for trial in trials if trial.role == "baseline"][-1:]
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    return list({trial.number: trial for trial in (*best, *baseline, *running)}.values())


def time_left(job: Job, now: datetime) -> str:
    """How long the job has run, and about how long it will at this pace."""
    if job.started_at is None:
        return "waiting for a worker"
    passed = max(now - job.started_at, timedelta(0))
    text = _clock(passed)
    if job.progress.fraction > SURE and job.state not in OVER:
        text += f", about {_clock(passed * (1 / job.progress.fraction - 1))} to go"
    return text


def _clock(span: timedelta) -> str:
    return str(timedelta(seconds=round(span.total_seconds())))
