"""Which call asked for a job, so that its line in the log says so after a restart too."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("request_id", sa.Text))


def downgrade() -> None:
    op.drop_column("jobs", "request_id")
