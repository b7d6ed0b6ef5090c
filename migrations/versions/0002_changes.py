"""The change log, the doomed crops, and the time at which a job was last kept alive.

From here on the slot of an item is the number of the change that added the item. So the numbers of the log
begin after the greatest slot of the items.
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("sequence", NUMBER, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("slot", NUMBER),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_changes"),
    )
    op.create_table(
        "doomed_crops",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_doomed_crops"),
    )
    galleries = op.create_table(
        "galleries",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("newest_change", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_galleries"),
    )
    newest = op.get_bind().execute(sa.text("SELECT coalesce(max(slot), 0) FROM items")).scalar_one()
    op.bulk_insert(galleries, [{"id": secrets.token_hex(16), "newest_change": newest}])
    op.add_column("jobs", sa.Column("alive_at", sa.DateTime(timezone=True)))
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("items", "slot", type_=sa.BigInteger(), server_default=None)
        op.alter_column("embeddings", "slot", type_=sa.BigInteger())
        op.execute("DROP SEQUENCE items_slot_seq")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE items_slot_seq OWNED BY items.slot")
        op.execute("SELECT setval('items_slot_seq', newest_change + 1, false) FROM galleries")
        op.alter_column("embeddings", "slot", type_=sa.Integer())
        op.alter_column(
            "items", "slot", type_=sa.Integer(), server_default=sa.text("nextval('items_slot_seq')")
        )
    op.drop_column("jobs", "alive_at")
    for table in ("galleries", "doomed_crops", "changes"):
        op.drop_table(table)
