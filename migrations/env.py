"""How Alembic reaches the database: the URL it was given, else LRTUNE_DATABASE_URL."""

import os

from alembic import context
from sqlalchemy import create_engine, pool

from lrtune.store.schema import VERSION_TABLE
from lrtune.store.tables import Base

url = context.config.attributes.get("url") or os.environ.get("LRTUNE_DATABASE_URL", "sqlite:///.lrtune/lrtune.db")

if context.is_offline_mode():
    raise SystemExit("lrtune's migrations run against a database; offline SQL is not supported")

with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        render_as_batch=sqlite,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
