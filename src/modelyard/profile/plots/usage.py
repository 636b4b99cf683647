"""Memory and utilisation of each configuration, against load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from modelyard.domain.figures import figure
from modelyard.domain.measurement import Indicators
from modelyard.profile.plots import axes as ax
from modelyard.profile.plots import bars, svg
from modelyard.profile.plots.figure import Plot, Shown, left_out, sentence
from modelyard.profile.plots.scales import Scale, linear

Reading = Callable[[Indicators], "float | None"]
_MIB: Final = 2**20
_PANELS: Final[tuple[tuple[str, Reading], ...]] = (
    ("RSS, MiB", lambda i: i.memory_rss_bytes / _MIB),
    ("CPU cores", lambda i: i.cpu_cores),
    ("GPU, MiB", lambda i: None if i.gpu_memory_bytes is None else i.gpu_memory_bytes / _MIB),
    ("GPU, %", lambda i: None if i.gpu_utilisation is None else i.gpu_utilisation * 100),
)
"""What is shown side by side; the GPU's where one was used."""


def memory_and_utilisation(shown: Sequence[Shown]) -> Plot | None:
    """Peak resident memory and mean busy cores of each measurement (and the GPU's); None for no measurements."""
    drawn = list(shown)[: bars.MOST_ROWS]
    if not drawn:
        return None
    panels = [(name, read) for name, read in _PANELS if any(read(s.measurement.indicators) is not None for s in drawn)]
    rows = bars.rows(drawn, 24)
    width = (svg.WIDTH - rows.left) / len(panels)
    body, bottom = [], 0.0
    for n, (name, read) in enumerate(panels):
        axes = _panel([read(s.measurement.indicators) for s in drawn], rows, rows.left + n * width, width)
        body.append(axes.draw("", ""))
        body.append(svg.text(axes.left, 12, name))
        body += [_bar(axes, row, read, svg.series(n)) for row in rows]
        bottom = max(bottom, ax.total_height(axes))
    cores = sorted({s.measurement.fingerprint.cores for s in drawn})
    caption = sentence(
        "Peak resident memory and mean busy cores of all processes of the service, while load ran.",
        f"The node has {' or '.join(map(str, cores))} cores.",
        left_out(len(shown) - len(drawn), "are in the table"),
    )
    return Plot("Memory and utilisation", caption, svg.document(bottom, rows.names, *body))


def _panel(values: Sequence[float | None], rows: bars.Rows, left: float, width: float) -> ax.Axes:
    room = svg.CHARACTER * 6
    x = linear([value for value in values if value is not None], steps=3)
    return ax.Axes(x, Scale(0, 1, ()), left, 20, width - room, rows.bottom - 20)


def _bar(axes: ax.Axes, row: bars.Row, read: Reading, class_: str) -> str:
    value = read(row.shown.measurement.indicators)
    if value is None:
        return ""
    bar = svg.rect(axes.left, row.top, axes.at_x(value) - axes.left, bars.BAR, f"bar {class_}")
    return svg.group(bar, svg.text(axes.at_x(value) + 4, row.top + 12, figure(value)), hover=row.shown.hover)
