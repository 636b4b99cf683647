"""The manifest: the YAML that describes a version, and the steps a server runs before and after the model."""

from modelyard.manifest.document import ManifestDocument, load, parse, to_yaml
from modelyard.manifest.frameworks import check_framework
from modelyard.manifest.schema import schema

__all__ = ["ManifestDocument", "check_framework", "load", "parse", "schema", "to_yaml"]
