"""How long the workers take for the decisions of searches, for whoever watches the service.

The server counts its own as it makes them (`app/metrics.py`); those of workers, who answer no scrape, are counted here.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from lrtune.store.database import lite
from lrtune.store.tables import DecisionRow

Decided = Literal["suggestion", "verdict"]
WITHIN = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds, the ends of the buckets; the last has none


@dataclass(frozen=True, slots=True)
class Spent:
    """How many decisions took so long, for each of the buckets, and how many seconds they took in all."""

    counts: Sequence[int]
    seconds: float


class Timed:
    """The decisions of this process that are not written yet."""

    def __init__(self) -> None:
        self._made: list[tuple[Decided, float]] = []
        self._lock = Lock()

    @contextmanager
    def deciding(self, what: Decided) -> Iterator[None]:
        """Count what is decided in this block."""
        began = time.perf_counter()
        yield
        with self._lock:
            self._made.append((what, time.perf_counter() - began))

    def take(self) -> list[tuple[Decided, float]]:
        """Those that are not written yet; the caller writes them."""
        with self._lock:
            taken, self._made = self._made, []
        return taken


def add(tx: Session, made: Sequence[tuple[Decided, float]]) -> None:
    """Count decisions of a worker."""
    if not made:
        return
    rows: dict[tuple[str, int], tuple[int, float]] = {}
    for what, seconds in sorted(made):  # in one order, so that two workers never wait for each other
        key = what, bisect_left(WITHIN, seconds)
        count, before = rows.get(key, (0, 0.0))
        rows[key] = count + 1, before + seconds
    dialect = sqlite if lite(tx) else postgresql
    writing = dialect.insert(DecisionRow).values(
        [{"what": what, "bucket": at, "count": n, "seconds": s} for (what, at), (n, s) in rows.items()]
    )
    more = {name: getattr(DecisionRow, name) + writing.excluded[name] for name in ("count", "seconds")}
    tx.execute(writing.on_conflict_do_update(index_elements=("what", "bucket"), set_=more))


def spent(tx: Session) -> Mapping[str, Spent]:
    """What the workers' decisions took, by what they were."""
    found: dict[str, Spent] = {}
    for row in tx.execute(select(DecisionRow.what, DecisionRow.bucket, DecisionRow.count, DecisionRow.seconds)):
        before = found.get(row.what, Spent([0] * (len(WITHIN) + 1), 0.0))
        counts = [count + (bucket == row.bucket) * row[2] for bucket, count in enumerate(before.counts)]
        found[row.what] = Spent(counts, before.seconds + row.seconds)
    return found
