"""Which schema this code is written for, and which one a database has; and whether a newer release wrote to it.

`migrations/` makes it; a worker has no migrations with it, so the newest one's name stands here too, and a test holds
the two together.
"""

import re

from sqlalchemy import inspect, text
from sqlalchemy.orm import Session

from lrtune import __version__

REVISION = "0023"
VERSION_TABLE = "lrtune_alembic_version"  # of its own name, so that another Alembic can share the database


def found(tx: Session) -> str | None:
    """The revision of a database's schema; None where it has none of ours yet."""
    if not inspect(tx.connection()).has_table(VERSION_TABLE):
        return None
    return tx.execute(text(f"select version_num from {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def differs(revision: str | None) -> str:
    """What is wrong with a schema, and what to do, in words; nothing where it is the one that this code needs."""
    if revision == REVISION:
        return ""
    if revision is None:
        return f"the database has no tables of lrtune's yet, and schema {REVISION} is needed: {UPGRADE}"
    if revision < REVISION:
        return f"the database has schema {revision}, older than the {REVISION} of this version of lrtune: {UPGRADE}"
    newer = "this program is the older one: start it from the release that the server runs"
    return f"the database has schema {revision}, newer than the {REVISION} of this version of lrtune: {newer}"


def newer(release: str) -> bool:
    """Whether a release that wrote something down came after this one; "" is one of before any wrote itself down."""
    return _numbers(release) > _numbers(__version__)


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)[:3]]


UPGRADE = "`lrtune migrate` beside the server brings it up to date (on SQLite the server does, as it starts)"
