"""The pages of reports: one self-contained HTML document each, without script or address, everything escaped."""

from __future__ import annotations

from datetime import UTC, datetime

from modelyard.domain.measurement import Interval, Validity
from modelyard.profile.plots import STYLE


def render(template: str, **context: object) -> str:
    """The page of a template of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("modelyard.profile"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, interval=interval, size=size, percent=percent, badge=_badge, error=_error, when=when
    )
    environment.globals.update(INVALID=Validity.INVALID, plot_style=STYLE)
    return environment.get_template(template).render(context)


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent for the sizes that occur; a dash for nothing."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def interval(value: Interval | None, blocks: int) -> str:
    """`0.4 – 0.6`, from so many blocks; nothing where there are no bounds."""
    if value is None or value.low is None or value.high is None:
        return ""
    if why := value.unusable(blocks):
        return why
    return f"{number(value.low)} – {number(value.high)}"


def size(count: int | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return "–"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def percent(share: float | None) -> str:
    """A share in per cent, finer below one."""
    if share is None:
        return "–"
    return f"{share:.3%}" if 0 < share < 0.01 else f"{share:.1%}"


def when(stamp: str) -> str:
    """A stored ISO time in UTC to the second; one without a zone is UTC, as all that is stored."""
    at = datetime.fromisoformat(stamp)
    return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _error(value: float) -> str:
    return f"{value:.2e}" if value else "0"


def _badge(value: object) -> str:
    """CSS class of a badge for an outcome or a validity."""
    good, middling = {"proven", "valid", "source"}, {"provisional", "unproven"}
    return "good" if str(value) in good else "fair" if str(value) in middling else "poor"
