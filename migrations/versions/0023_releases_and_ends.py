"""Which release wrote down what a job asks for, and who or what stopped a trial.

Of jobs of before no release is known, and none needs to be: this one reads them. What stopped a trial stood in the
words of its reason alone; where these name a loop or the end of the search it is read from them.

Revision: 0023, after 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

BEGINNINGS = {
    "its loop ended it": "loop",
    "nothing was left to train it": "budget",
    "the search is over": "budget",
    "the job ended while it was paused": "budget",
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("release", sa.String(40), nullable=False, server_default=""))
    op.add_column("trials", sa.Column("stopped_by", sa.String(16), nullable=True))
    trials = sa.table("trials", *(sa.column(name, sa.String) for name in ("state", "reason", "stopped_by")))
    for words, by in BEGINNINGS.items():
        stopped = trials.update().where(trials.c.state == "stopped", trials.c.reason.startswith(words))
        op.execute(stopped.values(stopped_by=by))


def downgrade() -> None:
    op.drop_column("trials", "stopped_by")
    op.drop_column("jobs", "release")
