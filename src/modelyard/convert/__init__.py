"""Converters and the proof that what they make is equal to its source. Public names only."""

from modelyard.convert.attempts import Attempt, ConversionResult
from modelyard.convert.cases import Evidence
from modelyard.convert.planning import cpu_flags, plan_targets
from modelyard.convert.ports import ConversionJob, ConversionProblem, Converter, Edge, Product
from modelyard.convert.registry import Converters
from modelyard.convert.sandbox import Limits
from modelyard.convert.service import ConversionService
from modelyard.convert.source_check import Claim, SourceCheck
from modelyard.convert.tolerances import default_tolerance

__all__ = [
    "Attempt",
    "Claim",
    "ConversionJob",
    "ConversionProblem",
    "ConversionResult",
    "ConversionService",
    "Converter",
    "Converters",
    "Edge",
    "Evidence",
    "Limits",
    "Product",
    "SourceCheck",
    "cpu_flags",
    "default_tolerance",
    "plan_targets",
]
