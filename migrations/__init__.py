"""The schema, by Alembic: `upgrade(url)` brings a database up to date, `lrtune migrate` does so by hand."""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError

from lrtune.errors import Invalid, Unavailable
from lrtune.settings import ADDRESS
from lrtune.store.database import AWAY, in_a_line

# Alembic keeps what it is at in globals of the process (`alembic.context`): two upgrades at once, of whichever
# databases, take each other's.
_one_at_a_time = threading.Lock()


def config(url: str) -> Config:
    """Alembic's configuration for one database."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["url"] = url
    return made


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema of a database up to `revision`."""
    with _one_at_a_time:
        command.upgrade(config(url), revision)


def upgrade_by_hand(url: str) -> None:
    """The same for `lrtune migrate`. Raises Invalid, or Unavailable with what the database said."""
    try:
        upgrade(url)
    except (ArgumentError, ImportError) as error:  # of no database, or of one that nothing here speaks with
        raise Invalid(f"LRTUNE_DATABASE_URL: {ADDRESS}") from error
    except AWAY as error:
        asked = "is it running, and is LRTUNE_DATABASE_URL right?"
        raise Unavailable(f"the database does not answer: {in_a_line(error)}; {asked}") from error


def downgrade(url: str, revision: str) -> None:
    """Take the schema of a database down to `revision` (`base`: nothing is left)."""
    with _one_at_a_time:
        command.downgrade(config(url), revision)


def newest() -> str | None:
    """The newest revision there is: that of `lrtune.store.schema`."""
    return ScriptDirectory.from_config(config("")).get_current_head()
