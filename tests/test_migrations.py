"""The migrations make exactly the tables the code uses, on both databases, and take them away again."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect

import migrations
from lrtune.store.tables import Base


def test_the_migrated_schema_is_the_one_the_code_uses(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        opts = {"version_table": migrations.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, Base.metadata) == []
        assert migrations.is_current(connection)
    engine.dispose()


def test_down_takes_every_table_away_and_up_brings_them_back(database_url: str) -> None:
    engine = create_engine(database_url)
    migrations.downgrade(database_url, "base")
    assert set(inspect(engine).get_table_names()) <= {migrations.VERSION_TABLE}
    with engine.connect() as connection:
        assert not migrations.is_current(connection)
    migrations.upgrade(database_url)
    assert set(Base.metadata.tables) < set(inspect(engine).get_table_names())
    engine.dispose()
