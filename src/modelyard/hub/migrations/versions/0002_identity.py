"""An identity for each hub, by which a blob store knows its owner."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    table = op.create_table(
        "hub_identity",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hub_identity")),
    )
    op.bulk_insert(table, [{"id": secrets.token_hex(16)}])


def downgrade() -> None:
    raise NotImplementedError("a hub is never downgraded: restore a backup made before the upgrade")
