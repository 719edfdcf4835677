"""Durable jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

QUEUED = sa.text("state = 'queued'")
RUNNING = sa.text("state = 'running'")
KEYED = sa.text("idempotency_key IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("turn", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("alone", sa.Boolean, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("finished", sa.Double),
        sa.Column("worker", sa.Text),
        sa.Column("lease", sa.Double),
        sa.Column("parent", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("fingerprint", sa.Text, nullable=False),
    )
    # The queue in the order it is claimed; an owner's last place in it; what runs; then the two ways to list.
    for name, columns, condition in (
        ("jobs_queued", ["priority", "turn", "id"], QUEUED),
        ("jobs_queued_by_owner", ["owner", "priority", "turn"], QUEUED),
        ("jobs_running", ["priority", "turn"], RUNNING),
        ("jobs_by_state", ["state", "id"], None),
        ("jobs_by_owner", ["owner", "id"], None),
    ):
        op.create_index(name, "jobs", columns, sqlite_where=condition, postgresql_where=condition)
    op.create_index(
        "jobs_by_key", "jobs", ["owner", "idempotency_key"], unique=True, sqlite_where=KEYED, postgresql_where=KEYED
    )


def downgrade() -> None:
    op.drop_table("jobs")
