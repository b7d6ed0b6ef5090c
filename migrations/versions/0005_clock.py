"""Warnings about files that a job has enrolled."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_files", sa.Column("warning", sa.JSON()))


def downgrade() -> None:
    op.drop_column("job_files", "warning")
