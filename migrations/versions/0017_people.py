"""People with keys of their own: an owner on every job and dataset, and a log of who changed what.

What is there already belongs to `admin`. A name of a dataset, its bytes, and an idempotency key are one per owner now.

Revision: 0017, after 0016
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DATASETS = sa.table("datasets", *map(sa.column, ("seq", "id", "name")))


def upgrade() -> None:
    op.create_table(
        "people",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False, server_default="1"),
        sa.Column("quotas", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_people"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("person", sa.String(100), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("beginning", sa.String(16), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["person"], ["people.name"], name="fk_api_keys_person"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
    )
    op.create_index("ix_api_keys_person", "api_keys", ["person"])
    op.create_table(
        "audit",
        sa.Column("id", ID, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(100), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_actor_at", "audit", ["actor", "at"])
    op.create_index("ix_audit_subject", "audit", ["subject"])
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("owner", sa.String(100), nullable=False, server_default="admin"))
        jobs.drop_constraint("uq_jobs_idempotency_key", type_="unique")
        jobs.create_unique_constraint("uq_jobs_owner_idempotency_key", ["owner", "idempotency_key"])
    for columns in (["owner", "state"], ["owner", "seq"], ["owner", "created_at"]):
        op.create_index(f"ix_jobs_{'_'.join(columns)}", "jobs", columns)
    with op.batch_alter_table("datasets") as datasets:
        datasets.add_column(sa.Column("owner", sa.String(100), nullable=False, server_default="admin"))
        for column in ("id", "name"):
            datasets.drop_constraint(f"uq_datasets_{column}", type_="unique")
            datasets.create_unique_constraint(f"uq_datasets_owner_{column}", ["owner", column])
    for column in ("id", "name"):  # by which they are asked for, whoever owns them
        op.create_index(f"ix_datasets_{column}", "datasets", [column])


def downgrade() -> None:
    _keep_the_first_of_each_dataset()
    with op.batch_alter_table("datasets") as datasets:
        for column in ("id", "name"):
            datasets.drop_index(f"ix_datasets_{column}")
            datasets.drop_constraint(f"uq_datasets_owner_{column}", type_="unique")
            datasets.create_unique_constraint(f"uq_datasets_{column}", [column])
        datasets.drop_column("owner")
    op.execute(
        "update jobs set idempotency_key = null where exists "
        "(select 1 from jobs other where other.idempotency_key = jobs.idempotency_key and other.seq < jobs.seq)"
    )
    for columns in (["owner", "state"], ["owner", "seq"], ["owner", "created_at"]):
        op.drop_index(f"ix_jobs_{'_'.join(columns)}", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("uq_jobs_owner_idempotency_key", type_="unique")
        jobs.create_unique_constraint("uq_jobs_idempotency_key", ["idempotency_key"])
        jobs.drop_column("owner")
    for table in ("audit", "api_keys", "people"):
        op.drop_table(table)


def _keep_the_first_of_each_dataset() -> None:
    """The same bytes once; of other bytes under the same name, those that came later are called after their digest."""
    connection, ids, names = op.get_bind(), set[Any](), set[Any]()
    for row in connection.execute(sa.select(DATASETS).order_by(DATASETS.c.seq)).all():
        this = DATASETS.c.seq == row.seq
        if row.id in ids:
            connection.execute(sa.delete(DATASETS).where(this))
        elif row.name in names:
            suffix = row.name[row.name.rfind(".") :]
            connection.execute(sa.update(DATASETS).where(this).values(name=f"{row.id[:32]}{suffix}"))
        ids.add(row.id)
        names.add(row.name)
