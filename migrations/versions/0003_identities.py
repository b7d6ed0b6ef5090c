"""Identities that people describe and correct, erasures, kept answers, and jobs that enrol files.

From here on a job may have no model version, as an import has none.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)
TABLES = (
    "job_files",
    "kept_answers",
    "erasures",
    "former_identities",
    "moves",
    "operations",
    "rejections",
    "attributes",
)


def upgrade() -> None:
    op.add_column("identities", sa.Column("name", sa.String(255)))
    op.add_column("identities", sa.Column("notes", sa.Text()))
    op.add_column("identities", sa.Column("is_kept", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("items", sa.Column("duplicate_of", sa.String(32)))
    op.create_index("ix_items_duplicate_of", "items", ["duplicate_of"])
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("model_version", existing_type=sa.String(64), nullable=True)
        jobs.add_column(sa.Column("options", sa.JSON()))
        jobs.add_column(sa.Column("started_at", TIME))
    _create_about_identities()
    _create_about_operations()
    _create_about_requests()


def _create_about_identities() -> None:
    op.create_table(
        "attributes",
        _reference("identity_key", sa.Integer(), "identities", "key", "attributes"),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("identity_key", "name", name="pk_attributes"),
    )
    op.create_index("ix_attributes_name_value", "attributes", ["name", "value"])
    op.create_table(
        "rejections",
        _reference("identity_key", sa.Integer(), "identities", "key", "rejections"),
        _reference("slot", NUMBER, "items", "slot", "rejections"),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("identity_key", "slot", name="pk_rejections"),
    )
    op.create_index("ix_rejections_slot", "rejections", ["slot"])


def _create_about_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("undone_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
    )
    op.create_table(
        "moves",
        _reference("operation_id", sa.String(32), "operations", "id", "moves"),
        _reference("slot", NUMBER, "items", "slot", "moves"),
        sa.Column("from_key", sa.Integer(), nullable=False),
        sa.Column("to_key", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("operation_id", "slot", name="pk_moves"),
    )
    op.create_index("ix_moves_slot", "moves", ["slot"])
    op.create_table(
        "former_identities",
        _reference("operation_id", sa.String(32), "operations", "id", "former_identities"),
        sa.Column("identity_key", sa.Integer(), nullable=False),
        sa.Column("before", sa.JSON()),
        sa.Column("after", sa.JSON()),
        sa.PrimaryKeyConstraint("operation_id", "identity_key", name="pk_former_identities"),
    )
    op.create_index("ix_former_identities_identity_key", "former_identities", ["identity_key"])
    op.create_table(
        "erasures",
        sa.Column("sequence", NUMBER, autoincrement=False, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("identity_sha256", sa.String(64)),
        sa.Column("item_ids", sa.JSON(), nullable=False),
        sa.Column("erased", sa.JSON(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_erasures"),
    )


def _create_about_requests() -> None:
    op.create_table(
        "kept_answers",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("alive_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_kept_answers"),
    )
    op.create_index("ix_kept_answers_created_at", "kept_answers", ["created_at"])
    op.create_table(
        "job_files",
        _reference("job_id", sa.String(32), "jobs", "id", "job_files"),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("label", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("job_id", "position", name="pk_job_files"),
    )
    op.create_index("ix_job_files_sha256", "job_files", ["sha256"])


def _reference(name: str, kind: Any, table: str, column: str, owner: str) -> sa.Column[Any]:
    """Return a foreign key; a row that has the key is deleted together with the row it refers to."""
    key = sa.ForeignKey(f"{table}.{column}", name=f"fk_{owner}_{name}_{table}", ondelete="CASCADE")
    return sa.Column(name, kind, key, nullable=False)


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    op.execute("DELETE FROM jobs WHERE model_version IS NULL")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("started_at")
        jobs.drop_column("options")
        jobs.alter_column("model_version", existing_type=sa.String(64), nullable=False)
    op.drop_index("ix_items_duplicate_of", "items")
    op.drop_column("items", "duplicate_of")
    for column in ("is_kept", "notes", "name"):
        op.drop_column("identities", column)
