"""Crops of an import that were in the gallery already: how many, and as which items."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("num_existing", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job_files", sa.Column("item_id", sa.String(32)))
    op.create_index("ix_job_files_item_id", "job_files", ["item_id"])


def downgrade() -> None:
    op.drop_index("ix_job_files_item_id", "job_files")
    op.drop_column("job_files", "item_id")
    op.drop_column("jobs", "num_existing")
