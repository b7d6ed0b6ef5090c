"""The gallery, its model versions and its jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_models()
    _create_items()
    _create_embeddings()
    _create_jobs()


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("version", name="pk_models"),
    )


def _create_items() -> None:
    op.create_table(
        "identities",
        sa.Column("key", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_identities"),
        sa.UniqueConstraint("id", name="uq_identities_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "items",
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("identity_key", sa.Integer(), nullable=False),
        sa.Column("camera_id", sa.String(255)),
        sa.Column("captured_at", sa.DateTime(timezone=True)),
        sa.Column("track_id", sa.String(255)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("content_type", sa.String(32), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["identity_key"], ["identities.key"], name="fk_items_identity_key_identities"
        ),
        sa.PrimaryKeyConstraint("slot", name="pk_items"),
        sa.UniqueConstraint("id", name="uq_items_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_items_identity_key", "items", ["identity_key"])
    op.create_index("ix_items_sha256", "items", ["sha256"])


def _create_embeddings() -> None:
    op.create_table(
        "embeddings",
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["slot"], ["items.slot"], name="fk_embeddings_slot_items", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model_version"],
            ["models.version"],
            name="fk_embeddings_model_version_models",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("slot", "model_version", name="pk_embeddings"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state"])


def downgrade() -> None:
    for table in ("jobs", "embeddings", "items", "identities", "models"):
        op.drop_table(table)
