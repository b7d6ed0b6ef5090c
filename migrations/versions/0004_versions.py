"""Results of evaluations, the version searched in place of the active one, and items without their crop."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("evaluation", sa.JSON()))
    op.add_column("models", sa.Column("stand_in", sa.String(64)))
    op.add_column("jobs", sa.Column("result", sa.JSON()))
    op.add_column("items", sa.Column("has_crop", sa.Boolean(), nullable=False, server_default=sa.true()))


def downgrade() -> None:
    op.drop_column("items", "has_crop")
    op.drop_column("jobs", "result")
    op.drop_column("models", "stand_in")
    op.drop_column("models", "evaluation")
