"""The manifest: the YAML that describes a version, and the steps a server runs before and after the model."""

from modelyard.manifest.document import ManifestDocument, load, parse, to_yaml
from modelyard.manifest.frameworks import check_framework, framework_name
from modelyard.manifest.schema import check_license, schema

__all__ = [
    "ManifestDocument",
    "check_framework",
    "check_license",
    "framework_name",
    "load",
    "parse",
    "schema",
    "to_yaml",
]
