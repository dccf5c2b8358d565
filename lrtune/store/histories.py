"""A job's trials for those who ask again and again: only what has changed since is read.

Every change of a trial stands in its job's log, but for the reports of those that run and for what a job's end does to
the rest, which is one line about no trial. The log's numbers are in the order of commits, so nothing is missed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import SQLColumnExpression, and_, case, literal, select
from sqlalchemy.orm import Session

from lrtune.caches import idle_cache
from lrtune.errors import UnknownJob
from lrtune.store import trials
from lrtune.store.tables import EventRow, JobRow, TrialRow
from lrtune.wire.results import OPEN, Trial

AT_ONCE = 500  # changed trials: where there are more, all are read
MOST, FIRST = 1000, 32  # of the trials that a verdict rests on: those that changed last, and the job's first
LATELY = 4 * MOST  # lines of a log: a trial is proposed, begun and ended in three or four
Known = tuple[int, dict[int, Trial]]  # how many lines of the log had been written, and the trials as they were then


@dataclass(frozen=True, slots=True)
class _News:
    """A job and the trials that new lines of its log are about, the newest first; None is about no trial."""

    job: int
    steps: int | None
    events: int
    about: Sequence[int | None]


class History:
    """The trials of one job, as far as this process has read them.

    Several threads read at once. Each adds the news to what it asked for the news of: of two such either will do, while
    news added to what another has read meanwhile would leave a gap, for good.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._all: Known = (0, {})
        self._latest: Known = (0, {})  # those that changed last stand last

    def read(self, tx: Session) -> list[Trial]:
        """Every trial with its reports and stages, by number. Raises UnknownJob."""
        every = self._all
        return self._every(tx, self._news(tx, _since(every)), every)

    def recent(self, tx: Session, *, goal: str, own: Collection[int], others: bool = True) -> list[Trial]:
        """The trials on which verdicts about the running trials `own` rest, by number. Raises UnknownJob.

        They are all, or where the log is long no more than about `MOST`: those that its latest lines are about, the
        job's first trials, by which the average over its space is estimated, its best, and those that run. Without
        `others` the reports of these are those of when they were read last: dozens of trials report in the time that
        one question takes.
        """
        every, (after, known) = self._all, self._latest
        lately = case((JobRow.events - LATELY > after, JobRow.events - LATELY), else_=after)
        news = self._news(tx, case((JobRow.events > LATELY, lately), else_=_since(every)))
        if news.events <= LATELY:
            return self._every(tx, news, every, None if others else own)
        known = known if after >= news.events - LATELY else {}
        running = (number for number, trial in known.items() if others and trial.state in OPEN)
        always = {*own, *range(FIRST), *_best(tx, news, goal)}
        about = _numbers(news.about)
        changed, outdated = about[:MOST], known if None in news.about else known.keys() & about
        some = {*own, *changed, *running, *outdated, *(always - set(known))}
        found = _read(tx, news.job, some)
        known = {number: trial for number, trial in found.items() if number not in known} | known | found
        known |= {number: known.pop(number) for number in reversed(changed)}
        stay = {*always, *list(known)[-MOST:]}
        known = {number: trial for number, trial in known.items() if number in stay or trial.state in OPEN}
        self._latest = news.events, known
        return _by_number(known)

    def _every(self, tx: Session, news: _News, every: Known, running: Collection[int] | None = None) -> list[Trial]:
        after, known = every
        opened = [number for number, trial in known.items() if trial.state in OPEN] if running is None else running
        some = {*_numbers(news.about), *opened}
        if after == 0 or None in news.about or len(some) > AT_ONCE:
            known = {}
        known = known | _read(tx, news.job, some if known else None)
        self._all = news.events, known
        return _by_number(known)

    def _news(self, tx: Session, after: SQLColumnExpression[int]) -> _News:
        newer = and_(EventRow.job == JobRow.seq, EventRow.number > after)
        query = select(JobRow.seq, JobRow.steps, JobRow.events, EventRow.number, EventRow.trial)
        query = query.outerjoin(EventRow, newer).where(JobRow.id == self._job_id).order_by(EventRow.number.desc())
        rows = tx.execute(query).all()
        if not rows:
            raise UnknownJob(f"there is no job {self._job_id!r}")
        first, about = rows[0], [row.trial for row in rows if row.number is not None]
        return _News(first.seq, first.steps, first.events, about)


def _since(every: Known) -> SQLColumnExpression[int]:
    """After which line there is news of all trials; to who knows none of them nothing is."""
    return literal(every[0]) if every[0] else JobRow.events.expression


def _numbers(about: Iterable[int | None]) -> list[int]:
    return list(dict.fromkeys(number for number in about if number is not None))


def _best(tx: Session, news: _News, goal: str) -> Iterable[int]:
    query = select(TrialRow.number).where(TrialRow.job == news.job, TrialRow.role == "search")
    query = query.where(trials.completed(news.steps))
    return tx.scalars(query.order_by(*trials.best_first(goal)).limit(1))


def _read(tx: Session, job: int, numbers: Iterable[int] | None) -> dict[int, Trial]:
    own = TrialRow.job == job
    which = own if numbers is None else and_(own, TrialRow.number.in_(numbers))
    return {trial.number: trial for trial in trials.read(tx, which)}


def _by_number(known: Mapping[int, Trial]) -> list[Trial]:
    return [known[number] for number in sorted(known)]


@idle_cache(maxsize=64)  # a megabyte for a hundred trials
def of(job_id: str) -> History:
    """What this process has read of a job; of those that it was asked for last."""
    return History(job_id)
