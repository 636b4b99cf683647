"""The hub's first schema: models, versions, what they are found by, artifacts, evidence, services, pins."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("id", _id, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "pins",
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("token", "digest", name=op.f("pk_pins")),
    )
    op.create_index(op.f("ix_pins_digest"), "pins", ["digest"], unique=False)
    op.create_table(
        "alias_events",
        sa.Column("id", _id, nullable=False),
        sa.Column("model_id", _id, nullable=False),
        sa.Column("alias", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("previous", sa.Integer(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_alias_events_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_alias_events_model_id_alias_id"), "alias_events", ["model_id", "alias", "id"], unique=False
    )
    op.create_table(
        "versions",
        sa.Column("id", _id, nullable=False),
        sa.Column("model_id", _id, nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("framework", sa.Text(), nullable=False),
        sa.Column("source_artifact", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_versions_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("model_id", "digest", name=op.f("uq_versions_model_id_digest")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_versions_model_id_number")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_versions_framework_id"), "versions", ["framework", "id"], unique=False)
    op.create_index(op.f("ix_versions_model_id"), "versions", ["model", "id"], unique=False)
    op.create_index(op.f("ix_versions_task_id"), "versions", ["task", "id"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("model_id", _id, nullable=False),
        sa.Column("alias", sa.String(length=128), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_aliases_model_id")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_aliases_version_id")),
        sa.PrimaryKeyConstraint("model_id", "alias", name=op.f("pk_aliases")),
    )
    op.create_index(op.f("ix_aliases_version_id"), "aliases", ["version_id"], unique=False)
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.Column("standing", sa.Text(), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=True),
        sa.Column("conversion", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["parent"], ["artifacts.id"], name=op.f("fk_artifacts_parent"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_artifacts_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("version_id", "position", name=op.f("uq_artifacts_version_id_position")),
    )
    op.create_index(op.f("ix_artifacts_parent"), "artifacts", ["parent"], unique=False)
    op.create_table(
        "conversions",
        sa.Column("sequence", _id, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_conversions_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_conversions")),
        sa.UniqueConstraint("id", name=op.f("uq_conversions_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_conversions_key_sequence"), "conversions", ["key", "sequence"], unique=False)
    op.create_index(op.f("ix_conversions_version_id_sequence"), "conversions", ["version_id", "sequence"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("sequence", _id, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_decisions_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_decisions")),
        sa.UniqueConstraint("id", name=op.f("uq_decisions_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_decisions_version_id_sequence"), "decisions", ["version_id", "sequence"], unique=False)
    op.create_table(
        "measurements",
        sa.Column("sequence", _id, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.Column("artifact_id", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("validity", sa.Text(), nullable=False),
        sa.Column("configuration_digest", sa.String(length=64), nullable=False),
        sa.Column("workload_digest", sa.String(length=64), nullable=False),
        sa.Column("samples", sa.String(length=64), nullable=True),
        sa.Column("samples_bytes", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_measurements_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_measurements")),
        sa.UniqueConstraint("id", name=op.f("uq_measurements_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_measurements_configuration_digest_workload_digest"),
        "measurements",
        ["configuration_digest", "workload_digest"],
        unique=False,
    )
    op.create_index(op.f("ix_measurements_samples"), "measurements", ["samples"], unique=False)
    op.create_index(
        op.f("ix_measurements_version_id_sequence"), "measurements", ["version_id", "sequence"], unique=False
    )
    op.create_table(
        "services",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.Column("artifact_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_services_version_id")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_services")),
    )
    op.create_index(op.f("ix_services_version_id"), "services", ["version_id"], unique=False)
    op.create_table(
        "version_details",
        sa.Column("version_id", _id, nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_version_details_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_version_details")),
    )
    op.create_table(
        "version_files",
        sa.Column("version_id", _id, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_version_files_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_version_files")),
    )
    op.create_index(op.f("ix_version_files_digest"), "version_files", ["digest"], unique=False)
    op.create_table(
        "version_labels",
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_version_labels_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("kind", "value", "version_id", name=op.f("pk_version_labels")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_version_labels_version_id"), "version_labels", ["version_id"], unique=False)
    op.create_table(
        "version_metrics",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version_id", _id, nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_version_metrics_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", "version_id", name=op.f("pk_version_metrics")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_version_metrics_name_value_version_id"),
        "version_metrics",
        ["name", "value", "version_id"],
        unique=False,
    )
    op.create_index(op.f("ix_version_metrics_version_id"), "version_metrics", ["version_id"], unique=False)
    op.create_table(
        "artifact_files",
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifacts.id"], name=op.f("fk_artifact_files_artifact_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("artifact_id", "path", name=op.f("pk_artifact_files")),
    )
    op.create_index(op.f("ix_artifact_files_digest"), "artifact_files", ["digest"], unique=False)
    if op.get_context().dialect.name == "postgresql":
        op.create_table(
            "version_text",
            sa.Column("version_id", _id, sa.ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("words", postgresql.TSVECTOR(), nullable=False),
        )
        op.create_index("ix_version_text_words", "version_text", ["words"], postgresql_using="gin")
    else:
        op.execute(
            "CREATE VIRTUAL TABLE version_text"
            " USING fts5(words, detail = none, tokenize = 'unicode61 remove_diacritics 0')"
        )


def downgrade() -> None:
    raise NotImplementedError("a hub is never downgraded: restore a backup made before the upgrade")
