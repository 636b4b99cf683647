"""The hub: registry of models, artifacts and evidence. Metadata in SQLite or PostgreSQL, blobs content-addressed."""

from modelyard.hub.hub import Hub
from modelyard.hub.values import (
    DescriptionChanges,
    Freed,
    Lineage,
    MeasurementQuery,
    MetricFilter,
    ModelSummary,
    Page,
    Registration,
    Replacement,
    StudyQuery,
    VersionQuery,
)

__all__ = [
    "DescriptionChanges",
    "Freed",
    "Hub",
    "Lineage",
    "MeasurementQuery",
    "MetricFilter",
    "ModelSummary",
    "Page",
    "Registration",
    "Replacement",
    "StudyQuery",
    "VersionQuery",
]
