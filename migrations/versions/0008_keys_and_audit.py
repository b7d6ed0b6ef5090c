"""Keys of the API, browsers that are signed in, who began a job or made an operation, and the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_keys()
    _create_audit()
    op.add_column("jobs", sa.Column("key_id", sa.String(16)))
    op.create_index(op.f("ix_jobs_key_id"), "jobs", ["key_id"], unique=False)
    op.add_column("operations", sa.Column("key_id", sa.String(16)))
    op.add_column("operations", sa.Column("undone_by", sa.String(16)))


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("cameras", sa.JSON()),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("name", name=op.f("uq_keys_name")),
    )
    op.create_table(
        "sign_ins",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"], ["keys.id"], name=op.f("fk_sign_ins_key_id_keys"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_sign_ins")),
    )
    for column in ("key_id", "expires_at"):
        op.create_index(op.f(f"ix_sign_ins_{column}"), "sign_ins", [column], unique=False)


def _create_audit() -> None:
    op.create_table(
        "audit_rows",
        sa.Column("sequence", NUMBER, autoincrement=False, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64)),
        sa.Column("request_id", sa.String(64)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("commitments", sa.JSON(), nullable=False),
        sa.Column("sealed_by", sa.String(16), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_rows")),
    )
    op.create_index(op.f("ix_audit_rows_at"), "audit_rows", ["at"], unique=False)
    op.create_table(
        "audit_people",
        sa.Column("sequence", NUMBER, autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("relation", sa.String(16)),
        sa.Column("identity_id", sa.String(255)),
        sa.Column("item_id", sa.String(32)),
        sa.Column("score", sa.Double()),
        sa.Column("salt", sa.String(32)),
        sa.Column("erased_as", sa.String(64)),
        sa.Column("erasure_mac", sa.String(64)),
        sa.ForeignKeyConstraint(
            ["sequence"],
            ["audit_rows.sequence"],
            name=op.f("fk_audit_people_sequence_audit_rows"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sequence", "place", name=op.f("pk_audit_people")),
    )
    for column in ("identity_id", "item_id"):
        op.create_index(op.f(f"ix_audit_people_{column}"), "audit_people", [column], unique=False)
    op.create_table(
        "audit_queries",
        sa.Column("sequence", NUMBER, autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["sequence"],
            ["audit_rows.sequence"],
            name=op.f("fk_audit_queries_sequence_audit_rows"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sequence", "sha256", name=op.f("pk_audit_queries")),
    )
    op.create_index(op.f("ix_audit_queries_sha256"), "audit_queries", ["sha256"], unique=False)
    chains = op.create_table(
        "audit_chains",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("newest", NUMBER, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.Column("expired", NUMBER, nullable=False),
        sa.Column("expired_mac", sa.String(64), nullable=False),
        sa.Column("expired_seal", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_chains")),
    )
    genesis = "0" * 64
    op.bulk_insert(chains, [{"id": 1, "newest": 0, "mac": genesis, "expired": 0, "expired_mac": genesis}])


def downgrade() -> None:
    op.drop_column("operations", "undone_by")
    op.drop_column("operations", "key_id")
    op.drop_index(op.f("ix_jobs_key_id"), "jobs")
    op.drop_column("jobs", "key_id")
    for table in ("audit_chains", "audit_queries", "audit_people", "audit_rows"):
        op.drop_table(table)
    op.drop_table("sign_ins")
    op.drop_table("keys")
