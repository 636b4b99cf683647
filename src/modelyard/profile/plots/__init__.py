"""The plots of reports: values in, SVG text out. No script, no address, no ids; the page includes `STYLE` once."""

from modelyard.profile.plots.figure import Plot, Shown
from modelyard.profile.plots.latency import latency_distribution
from modelyard.profile.plots.roundtrip import round_trips
from modelyard.profile.plots.stages import STAGES, stage_split
from modelyard.profile.plots.svg import STYLE
from modelyard.profile.plots.throughput import throughput_against_p99
from modelyard.profile.plots.usage import memory_and_utilisation

__all__ = [
    "STAGES",
    "STYLE",
    "Plot",
    "Shown",
    "latency_distribution",
    "memory_and_utilisation",
    "round_trips",
    "stage_split",
    "throughput_against_p99",
]
