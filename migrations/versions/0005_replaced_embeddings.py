"""Embeddings that `reid check --repair` has replaced, so that a repair can be undone."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "replaced_embeddings",
        sa.Column("repair_id", sa.String(32), nullable=False),
        sa.Column("slot", number, autoincrement=False, nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["slot"], ["items.slot"], name=op.f("fk_replaced_embeddings_slot_items"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model_version"],
            ["models.version"],
            name=op.f("fk_replaced_embeddings_model_version_models"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("repair_id", "slot", "model_version", name=op.f("pk_replaced_embeddings")),
    )
    for column in ("slot", "replaced_at"):
        op.create_index(
            op.f(f"ix_replaced_embeddings_{column}"), "replaced_embeddings", [column], unique=False
        )


def downgrade() -> None:
    op.drop_table("replaced_embeddings")
