"""The report's plots as inline SVG that follows the page's light or dark theme.

Drawn with matplotlib's object interface (no pyplot, so no global state), imported only when a report is made. Ink, grid
and series colours are written as placeholders and replaced by CSS variables of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.measurement import Interval, Measurement, Validity
from modelyard.profile.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GRID, _BAD = "#010101", "#020202", "#030303"
_SERIES: Final = tuple(f"#0404{n:02x}" for n in range(1, 7))
_VARIABLES: Final = {
    _INK: "var(--ink-2)",
    _GRID: "var(--grid)",
    _BAD: "var(--bad)",
    **{colour: f"var(--s{n})" for n, colour in enumerate(_SERIES, 1)},
}
STAGES: Final = ("queue", "batch_wait", "pre", "infer", "post", "encode")
_DIGIT_PT, _LINE_PT, _MARKER_PT = 7.0, 11.0, 4.0
"""Room for a digit and a line of the plots' font of 10 points, and the radius of a point."""
MOST_BARS: Final = 16
"""Bars shown in one plot; the table has them all."""


@dataclass(frozen=True, slots=True)
class Plot:
    """An inline SVG with its title and a sentence for those who cannot see it."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Latencies (ms) of one configuration, block by block, for the distribution plot."""

    label: str
    blocks: tuple[NDArray[np.float64], ...]


def throughput_against_p99(
    measurements: Sequence[Measurement], numbers: Mapping[str, int], chosen: str | None, slo_ms: float | None
) -> Plot | None:
    """One point per measurement that has a p99, with both intervals; the number is the row of the table.

    Under one offered rate all throughputs are that rate; then the cost takes the place of the throughput.
    """
    points = [(m, m.indicators.p99_ms) for m in measurements if m.indicators.p99_ms is not None]
    if not points:
        return None

    rates = [m.indicators.throughput_rps.value for m, _ in points]
    by_cost = len(points) > 1 and max(rates) < 1.25 * min(rates)
    if by_cost:
        points = [(m, p99) for m, p99 in points if m.indicators.cost_known]
        if not points:
            return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_yscale("log")
        places: list[tuple[float, float]] = []
        for m, p99 in points:
            x = _cost(m) if by_cost else m.indicators.throughput_rps
            colour, marker, filled = _style(m, chosen)
            axes.errorbar(
                x.value,
                p99.value,
                xerr=_arms(x),
                yerr=_arms(p99),
                fmt=marker,
                ms=11 if m.id == chosen else 7,
                color=colour,
                mfc=colour if filled else "none",
                capsize=2,
                lw=1,
                zorder=4 if m.id == chosen else 3,
            )
            places.append((x.value, p99.value))
        if slo_ms:
            axes.axhline(slo_ms, color=_BAD, ls="--", lw=1)
            axes.annotate(
                f"SLO {slo_ms:g} ms", (0.995, slo_ms), (0, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", color=_BAD,
            )  # fmt: skip
        axes.margins(x=0.08, y=0.12)
        axes.set_xlim(left=0)
        axes.set_xlabel("cost per 1M requests" if by_cost else "throughput, requests/s")
        axes.set_ylabel("p99, ms (log)")
        _plain_ticks(axes, "y")
        _finish(axes)
        _label(axes, places, [str(numbers[m.id]) for m, _ in points])

    caption = "Star: chosen. Circle: valid or provisional. Cross: invalid or saturated. Bars: 95 % intervals."
    title = f"Cost against p99 (all at about {rates[0]:.3g} requests/s)" if by_cost else "Throughput against p99"
    return Plot(title, caption, render(draw, "plot-scatter"))


def latency_distribution(curves: Sequence[Curve], slo_ms: float | None) -> Plot | None:
    """Cumulative distribution of latency, log x; the band spans the blocks."""
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        shares = np.concatenate([np.linspace(0.01, 0.98, 200), np.linspace(0.981, 0.9995, 60)])
        for n, curve in enumerate(curves):
            colour = _SERIES[n % len(_SERIES)]
            per_block = np.array([np.quantile(block, shares) for block in curve.blocks])
            axes.fill_betweenx(shares, per_block.min(axis=0), per_block.max(axis=0), color=colour, alpha=0.2, lw=0)
            axes.plot(
                np.quantile(np.concatenate(curve.blocks), shares), shares, color=colour, lw=1.8, label=curve.label
            )
        axes.axhline(0.99, color=_GRID, lw=1)
        axes.annotate(
            "p99", (0.005, 0.99), (0, -11), xycoords=("axes fraction", "data"), textcoords="offset points", color=_INK
        )
        if slo_ms:
            axes.axvline(slo_ms, color=_BAD, ls="--", lw=1)
        axes.set_ylim(0, 1.01)
        axes.set_xlabel("latency from the scheduled send time, ms (log)")
        axes.set_ylabel("share of requests")
        _plain_ticks(axes, "x")
        _finish(axes, legend=2)

    caption = "The line is all requests together, the band spans the blocks. Dashed: the SLO."
    return Plot("Latency distribution", caption, render(draw, "plot-cdf"))


def stage_split(measurements: Sequence[Measurement], numbers: Mapping[str, int]) -> Plot | None:
    """Mean milliseconds a request spends in each stage of the server, stacked."""
    rows = [(m, m.indicators.stages) for m in measurements if m.indicators.stages is not None][:MOST_BARS]
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(rows))
        left = np.zeros(len(rows))
        for n, stage in enumerate(STAGES):
            values = np.array([getattr(stages, f"{stage}_ms") for _, stages in rows])
            axes.barh(places, values, 0.62, left=left, color=_SERIES[n], label=stage.replace("_", " "))
            left += values
        _name_bars(axes, [m for m, _ in rows], numbers)
        axes.set_xlabel("mean ms per request in the server")
        _finish(axes, legend=6)

    caption = "What lies between this and the client's latency is network, kernel and the client's own work."
    return Plot("Where the time goes", caption, render(draw, "plot-stages", height=_bar_height(len(rows)) + 0.5))


def memory_and_utilisation(measurements: Sequence[Measurement], numbers: Mapping[str, int]) -> Plot | None:
    """Peak resident memory and mean busy cores of each measurement."""
    rows = list(measurements)[:MOST_BARS]
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        memory, cores = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(rows))
        for axes, values, colour, label in (
            (memory, [m.indicators.memory_rss_bytes / 2**20 for m in rows], _SERIES[0], "memory (RSS, peak), MiB"),
            (cores, [m.indicators.cpu_cores for m in rows], _SERIES[1], "CPU cores kept busy, mean"),
        ):
            bars = axes.barh(places, values, 0.62, color=colour)
            texts = [f"{value:,.0f}" if value >= 100 else f"{value:.2g}" for value in values]
            axes.bar_label(bars, texts, padding=3, color=_INK)
            axes.margins(x=0.18)
            axes.set_xlabel(label)
            _finish(axes)
        _name_bars(memory, rows, numbers)

    caption = "Both of the service's process tree, while load ran."
    return Plot("Memory and utilisation", caption, render(draw, "plot-usage", height=_bar_height(len(rows))))


def render(draw: Callable[[Figure], None], prefix: str, *, width: float = 7.2, height: float = 3.8) -> str:
    """Draw into a figure and return themable inline SVG; `prefix` keeps its ids apart from other plots of the page."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {  # matplotlib types its keys as one closed literal
        "svg.fonttype": "none",
        "svg.hashsalt": prefix,
        "font.size": 10,
        "font.family": "sans-serif",
        "text.color": _INK,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "xtick.minor.visible": False,
        "grid.color": _GRID,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themable(out.getvalue(), prefix)


def _themable(svg: str, prefix: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
    svg = (
        svg.replace('id="', f'id="{prefix}-')
        .replace("url(#", f"url(#{prefix}-")
        .replace('href="#', f'href="#{prefix}-')
    )
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    # The page's own font: the one matplotlib measured with is not on every machine.
    return re.sub(r"font: ([^;\"]*?)'?DejaVu Sans'?[^;\"]*", r"font: \1var(--font)", svg)


def _style(m: Measurement, chosen: str | None) -> tuple[str, str, bool]:
    if m.verdict.validity is Validity.INVALID or m.verdict.saturated:
        return _BAD, "x", True
    if m.id == chosen:
        return _SERIES[1], "*", True
    return _SERIES[0], "o", m.verdict.validity is Validity.VALID


def _cost(m: Measurement) -> Interval:
    return m.indicators.cost_interval or Interval(m.indicators.cost_per_million)


def _arms(interval: Interval) -> list[list[float]] | None:
    if interval.low is None or interval.high is None:
        return None
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]


def _name_bars(axes: Axes, rows: Sequence[Measurement], numbers: Mapping[str, int]) -> None:
    axes.set_yticks(range(len(rows)), [f"{numbers[m.id]}  {m.configuration.label}" for m in rows])
    axes.tick_params(axis="y", length=0)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _bar_height(bars: int) -> float:
    return 1.1 + 0.34 * bars


def _label(axes: Axes, places: Sequence[tuple[float, float]], texts: Sequence[str]) -> None:
    """Label points where there is room, with a line to the point where the label stands away from it.

    Comes last: where the points lie in the figure is known once its limits and its layout are.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    figure.draw_without_rendering()
    points = axes.transData.transform(places) * 72 / figure.dpi
    centres = [(float(x), float(y)) for x, y in points]
    boxes = spread(centres, [(_DIGIT_PT * len(text), _LINE_PT) for text in texts], _MARKER_PT)
    for text, place, (x, y), (left, bottom, right, top) in zip(texts, places, centres, boxes, strict=True):
        offset = ((left + right) / 2 - x, (bottom + top) / 2 - y)
        far = max(map(abs, offset)) > _MARKER_PT + _LINE_PT
        axes.annotate(
            text,
            place,
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            color=_INK,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": _GRID, "shrinkA": 0, "shrinkB": 3} if far else None,
        )


def _plain_ticks(axes: Axes, which: Literal["x", "y"]) -> None:
    """Ticks of a log axis as plain numbers; fewer within a decade where there are many decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1, 3) if decades < 3.5 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _finish(axes: Axes, *, legend: int = 0) -> None:
    """Grid, spines, and a legend of `legend` columns above the axes."""
    axes.grid(visible=True, lw=0.6, alpha=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if legend:
        # Outside the axes, so that the layout makes room for it and long bar names do not push it off the page.
        axes.figure.legend(loc="outside upper center", ncols=legend, labelcolor=_INK, handlelength=1.2)
