"""Profile: put load on a service and say what it does, with uncertainty, environment and a validity verdict."""

from modelyard.profile.cell import MeasuredCell, MeasuredService
from modelyard.profile.compare import Comparison, Difference, compare
from modelyard.profile.fingerprint import fingerprint
from modelyard.profile.plan import WarmUpRule
from modelyard.profile.price import Price
from modelyard.profile.profiler import Profiler, Progress
from modelyard.profile.report import ReportData, render_html
from modelyard.profile.requests import batch_payloads, mixed_payloads
from modelyard.profile.samples import Samples
from modelyard.profile.verdicts import Rules

__all__ = [
    "Comparison",
    "Difference",
    "MeasuredCell",
    "MeasuredService",
    "Price",
    "Profiler",
    "Progress",
    "ReportData",
    "Rules",
    "Samples",
    "WarmUpRule",
    "batch_payloads",
    "compare",
    "fingerprint",
    "mixed_payloads",
    "render_html",
]
