"""Lists of jobs: which are wanted, in which order, a page at a time.

A page goes on after the last row of the one before (its sort key and its number), so what comes or goes in between
moves nothing. A new order is a line in `ORDERS`.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, SQLColumnExpression, and_, exists, func, literal, or_, select
from sqlalchemy.orm import Session

from lrtune.errors import Invalid, UnreadableJob
from lrtune.store import jobs, lookup
from lrtune.store.database import Parts, Utc
from lrtune.store.tables import JobRow, TagRow
from lrtune.wire.job import AdmittedJob, JobOrder
from lrtune.wire.listing import JobPage, UnreadableEntry
from lrtune.wire.results import JobState

KEY = 60  # characters of a text by which jobs are sorted
MOST_WORDS, MOST_TASKS = 10, 200  # of a search; to choose from
_NEVER = datetime(1, 1, 2, tzinfo=UTC)
_TASK, _NAME = JobRow.task, Parts(JobRow.spec)["name"].as_string()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs: `tag` is a key, or key:value; each word of `search` is in the id, the name, the task or a tag."""

    state: JobState | None = None
    tag: str | None = None
    task: str | None = None
    owner: str | None = None
    search: str | None = None
    only: str | None = None


def _text(column: SQLColumnExpression[Any]) -> ColumnElement[Any]:
    return func.substr(func.lower(column), 1, KEY)


# The key of an order, whether it falls, and what its cursor's text stands for; jobs with the same key: newest first.
ORDERS: Mapping[JobOrder, tuple[ColumnElement[Any], bool, Callable[[str], Any]]] = {
    "name": (_text(func.coalesce(func.nullif(_NAME, ""), _TASK)), False, str),
    "task": (_text(_TASK), False, str),
    "owner": (_text(JobRow.owner), False, str),
    "state": (_text(JobRow.state), False, str),
    "finished": (func.coalesce(JobRow.finished_at, literal(_NEVER, Utc), type_=Utc), True, datetime.fromisoformat),
}


def page(
    tx: Session, wanted: Wanted | None = None, *, order: JobOrder = "newest", limit: int, cursor: str | None
) -> JobPage:
    """A page of jobs, and those of it that cannot be read. Raises Invalid for a cursor of another list."""
    query = _narrowed(select(JobRow), wanted or Wanted())
    if order in ORDERS:
        key, falls, read = ORDERS[order]
        query = query.add_columns(key.label("key")).order_by(key.desc() if falls else key, JobRow.seq.desc())
        query = query if cursor is None else query.where(_after(key, falls, *_place(cursor, order, read)))
    else:
        falls = order == "newest"
        query = query.add_columns(JobRow.seq.label("key")).order_by(JobRow.seq.desc() if falls else JobRow.seq)
        if cursor is not None:
            last = lookup.number(cursor)
            query = query.where(JobRow.seq < last if falls else JobRow.seq > last)
    rows = tx.execute(query.limit(limit + 1)).all()
    more = _cursor(order, *rows[limit - 1]) if len(rows) > limit else None
    asked, unreadable = list[tuple[JobRow, AdmittedJob]](), list[UnreadableEntry]()
    for row, _ in rows[:limit]:
        try:
            asked.append((row, lookup.asked(row)))
        except UnreadableJob as error:
            unreadable.append(UnreadableEntry(id=row.id, owner=row.owner, words=str(error)))
    return JobPage(items=list(jobs.views(tx, asked)), next=more, unreadable=unreadable)


def tasks(tx: Session, *, only: str | None = None) -> list[str]:
    """The tasks that there are jobs of."""
    rows = select(JobRow.task).distinct().order_by(JobRow.task).limit(MOST_TASKS)
    return list(tx.scalars(rows if only is None else rows.where(JobRow.owner == only)))


def _narrowed(query: Select[Any], wanted: Wanted) -> Select[Any]:
    """The jobs of a query that are wanted. Raises Invalid."""
    owners = ((JobRow.owner, wanted.owner), (JobRow.owner, wanted.only))
    same = ((JobRow.state, wanted.state), (JobRow.task, wanted.task), *owners)
    query = query.where(*(column == value for column, value in same if value is not None))
    if wanted.tag is not None:
        key, colon, value = wanted.tag.partition(":")
        tagged = (TagRow.key == key) & (TagRow.value == value) if colon else TagRow.key == key
        query = query.where(exists().where(TagRow.job == JobRow.seq, tagged))
    words = (wanted.search or "").split()
    if len(words) > MOST_WORDS:
        detail = f"query parameter search: found {len(words)} words; accepted are {MOST_WORDS} at most"
        raise Invalid(detail, [{"pointer": "/search", "detail": detail}])
    return query.where(*map(_found, words))


def _found(word: str) -> ColumnElement[bool]:
    """Whether a word stands anywhere in what a job is called, its task, its owner and its tags."""
    columns = (_NAME, JobRow.task, JobRow.owner, JobRow.id)
    tagged = (TagRow.key + ":" + TagRow.value).icontains(word, autoescape=True)
    own = [column.icontains(word, autoescape=True) for column in columns]
    return or_(*own, exists().where(TagRow.job == JobRow.seq, tagged))


def _after(key: ColumnElement[Any], falls: bool, value: Any, number: int) -> ColumnElement[bool]:
    further = key < value if falls else key > value
    return or_(further, and_(key == value, JobRow.seq < number))


def _cursor(order: JobOrder, row: JobRow, key: Any) -> str:
    if order not in ORDERS:
        return lookup.cursor(row.seq)
    text = key.isoformat() if isinstance(key, datetime) else key
    written = json.dumps([order, text, row.seq], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(written.encode()).decode().rstrip("=")


def _place(cursor: str, order: JobOrder, read: Callable[[str], Any]) -> tuple[Any, int]:
    """The key and the number of the row that a page goes on after. Raises Invalid."""
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        named, text, number = json.loads(packed)
        if named != order or not isinstance(text, str) or "\0" in text or not 0 <= int(number) < 2**63:
            raise ValueError
        return read(text), int(number)
    except (ValueError, TypeError, RecursionError, OverflowError):
        accepted = "accepted is the `next` of an earlier page in the same order"
        detail = f"query parameter cursor: found {cursor[:60]!r}; {accepted}"
        raise Invalid(detail, [{"pointer": "/cursor", "detail": detail}]) from None
