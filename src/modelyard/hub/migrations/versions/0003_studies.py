"""Studies: searches over a version's configurations, with a row for each trial."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("sequence", _id, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.Column("settings", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_studies_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_studies")),
        sa.UniqueConstraint("id", name=op.f("uq_studies_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_studies_version_id_sequence"), "studies", ["version_id", "sequence"], unique=False)
    op.create_index(op.f("ix_studies_settings_sequence"), "studies", ["settings", "sequence"], unique=False)
    op.create_table(
        "study_trials",
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_study_trials_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("study_id", "position", name=op.f("pk_study_trials")),
    )


def downgrade() -> None:
    raise NotImplementedError("a hub is never downgraded: restore a backup made before the upgrade")
