"""A worker on a host whose clock is wrong by so many seconds: `python -m benchmarks.chaos.skewed 3600`.

On SQLite the clock is that of the process, asked for in SQL; PostgreSQL's is that of its server, whoever asks.
"""

import sys

from sqlalchemy import ColumnElement, literal_column
from sqlalchemy.orm import Session

from lrtune.store import database, leases
from worker.__main__ import main


def skew(seconds: int) -> None:
    """Let this process's SQLite be wrong by so many seconds."""

    def time(_: Session) -> ColumnElement[str]:
        return literal_column(f"strftime('%Y-%m-%d %H:%M:%f', 'now', '{seconds:+d} seconds')")

    for module in (database, leases):
        vars(module)["time"] = time


if __name__ == "__main__":
    skew(int(sys.argv.pop()))
    sys.exit(main())
