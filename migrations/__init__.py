"""The schema, by Alembic: `upgrade(url)` brings a database up to date, `lrtune migrate` does so by hand."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

VERSION_TABLE = "lrtune_alembic_version"  # of its own name, so that another Alembic can share the database


def config(url: str) -> Config:
    """Alembic's configuration for one database."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["url"] = url
    return made


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema of a database up to `revision`."""
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the schema of a database down to `revision` (`base`: nothing is left)."""
    command.downgrade(config(url), revision)


def is_current(connection: Connection) -> bool:
    """Whether a database has the newest schema."""
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    return found == ScriptDirectory.from_config(config("")).get_current_head()
