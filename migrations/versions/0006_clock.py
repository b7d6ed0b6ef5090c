"""Warnings about files that a job has enrolled, and the row about expiries that wait for a person."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_files", sa.Column("warning", sa.JSON()))
    retention = op.create_table(
        "retention",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True)),
        sa.Column("held_since", sa.DateTime(timezone=True)),
        sa.Column("held_reason", sa.String(16)),
        sa.Column("confirmed_at", sa.DateTime(timezone=True)),
        sa.Column("confirmed_limits", sa.Text()),
        sa.Column("accepted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_retention"),
    )
    op.bulk_insert(retention, [{"id": 1}])


def downgrade() -> None:
    op.drop_table("retention")
    op.drop_column("job_files", "warning")
