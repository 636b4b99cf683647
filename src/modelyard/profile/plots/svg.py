"""SVG as text: elements with escaped content, short coordinates, colours by the classes of `STYLE`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final, Literal

WIDTH: Final = 480.0
"""Of every plot, in its own units: about a pixel where two stand side by side, 0.7 of one on a phone."""
LINE: Final = 18.0
"""Height of a line of text, and `CHARACTER` the width of a character, at the size that phones get."""
CHARACTER: Final = 7.6
SERIES: Final = 6
"""Colours for series; what comes after has class `s7`, a grey."""

# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart with every kind of colour vision; without its yellow,
# which is lost on white. The second set is lighter, for dark pages.
STYLE: Final = """
.plot { --p1: #0072b2; --p2: #e69f00; --p3: #009e73; --p4: #d55e00; --p5: #56b4e9; --p6: #cc79a7; --p7: #808890;
  --soft: var(--ink-2, #4b5866); --rule: var(--grid, #d5dbe2); --wrong: var(--bad, #b3261e);
  width: 100%; height: auto; display: block; }
@media (prefers-color-scheme: dark) { .plot { --p1: #4aa8e0; --p2: #f0b83c; --p3: #2fc79a; --p4: #f08a4b; --p5: #9bd3f5;
  --p6: #e3a3c6; --p7: #98a2ad; --soft: var(--ink-2, #a9b5c2);
  --rule: var(--grid, #36424f); --wrong: var(--bad, #ff9a92); } }
.plot text { font: 12px var(--font, system-ui, sans-serif); fill: var(--soft); }
.plot .strong { font-weight: 600; }
.plot .s1 { --c: var(--p1); } .plot .s2 { --c: var(--p2); } .plot .s3 { --c: var(--p3); } .plot .s4 { --c: var(--p4); }
.plot .s5 { --c: var(--p5); }
.plot .s6 { --c: var(--p6); } .plot .s7 { --c: var(--p7); } .plot .wrong { --c: var(--wrong); }
.plot .line, .plot .thin, .plot .dash, .plot .mark { fill: none; stroke: var(--c); stroke-linejoin: round; }
.plot .line { stroke-width: 2; } .plot .dash { stroke-width: 1.4; stroke-dasharray: 2 3; }
.plot .thin { stroke-width: 1; }
.plot .mark { stroke-width: 1.6; }
.plot .solid { fill: var(--c); } .plot .hollow { fill: var(--card, transparent); }
.plot .bar { fill: var(--c); } .plot .band { fill: var(--c); fill-opacity: .14; }
.plot .dots { fill: none; stroke: var(--c); stroke-width: 3.2; stroke-linecap: round; stroke-opacity: .38; }
.plot .rule { fill: none; stroke: var(--rule); stroke-width: .7; }
.plot .limit { stroke: var(--wrong); stroke-dasharray: 6 3; }
.plot text.wrong { fill: var(--wrong); }
@media (max-width: 600px) { .plot text { font-size: 14px; } }
"""

Anchor = Literal["start", "middle", "end"]


def tag(name: str, *inside: str, **attributes: float | str | None) -> str:
    """One element; `inside` is SVG already. Attribute `class_` is `class`, `_` in a name is `-`, None is left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{shown}>{''.join(inside)}</{name}>" if inside else f"<{name}{shown}/>"


def text(x: float, y: float, words: str, anchor: Anchor = "start", class_: str | None = None) -> str:
    """A line of text on the baseline `y`, escaped."""
    return tag("text", escape(words), x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def title(words: str) -> str:
    """What a pointer that rests on the element is told."""
    return tag("title", escape(words))


def group(*inside: str, class_: str | None = None, hover: str = "") -> str:
    """Elements under one class and one hover text."""
    return tag("g", *((title(hover),) if hover else ()), *inside, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return tag("path", d=f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}", class_=class_)


def polyline(points: Iterable[tuple[float, float]], class_: str, *, closed: bool = False) -> str:
    """A line through points; `closed`, an area. Empty for no points."""
    steps = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    return tag("path", d=f"M{steps}{'Z' if closed else ''}", class_=class_) if steps else ""


def dots(points: Iterable[tuple[float, float]], class_: str = "dots") -> str:
    """Many points in one element: lines of no length with round ends, some 12 bytes each. Empty for no points."""
    steps = "".join(f"M{_number(x)} {_number(y)}h0" for x, y in points)
    return tag("path", d=steps, class_=class_) if steps else ""


def rect(x: float, y: float, width: float, height: float, class_: str, hover: str = "") -> str:
    """A rectangle."""
    inside = (title(hover),) if hover else ()
    return tag("rect", *inside, x=x, y=y, width=max(0.0, width), height=height, class_=class_)


def document(height: float, *inside: str) -> str:
    """The whole plot. It is hidden from screen readers: title and caption beside it tell what it shows."""
    return tag(
        "svg", *inside, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_number(WIDTH)} {_number(height)}",
        class_="plot", aria_hidden="true",
    )  # fmt: skip


def shortened(words: str, most: int) -> str:
    """At most `most` characters, the middle left out where there are more: names differ at their ends."""
    if len(words) <= most:
        return words
    head = (most - 1) // 2
    return f"{words[:head]}…{words[len(words) - (most - 1 - head) :]}"


def series(number: int) -> str:
    """The class of the n-th series, from 0."""
    return f"s{min(number, SERIES) + 1}"


def _value(value: float | str | None) -> str:
    return escape(value) if isinstance(value, str) else _number(float(value or 0.0))


def _number(value: float) -> str:
    """A tenth of a unit is finer than any screen shows."""
    return f"{value:.1f}".removesuffix(".0")
