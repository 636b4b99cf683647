"""Reports in a real browser: nothing is fetched, nothing complains, and on a desk or a phone no word covers another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.domain.configuration import Slo
from modelyard.profile.report_measured import Measured, MeasurementsData, render_measurements
from tests.browser import Page, browser
from tests.unit.profile.report_builders import difficult

UNREADABLE = """(() => {
  const found = [];
  for (const plot of document.querySelectorAll('svg.plot')) {
    const frame = plot.getBoundingClientRect();
    const words = [...plot.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
    words.forEach(([a, r], i) => {
      if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1 || r.bottom > frame.bottom + 1)
        found.push(`outside: ${a}`);
      for (const [b, q] of words.slice(i + 1))
        if (Math.min(r.right, q.right) - Math.max(r.left, q.left) > 1 &&
            Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top) > 3) found.push(`${a} | ${b}`);
    });
  }
  return found;
})()"""
"""Texts of plots that leave their plot or cover another by more than the blank around letters."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    data = MeasurementsData("Everything <difficult>", "at once", difficult(folder), slo=Slo(20, 250))
    (folder / "report.html").write_text(render_measurements(data), encoding="utf-8")
    return folder / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_report_is_readable_and_asks_nobody_for_anything(page: Page, report: Path, width: int, dark: bool) -> None:
    page.open(report, width=width, dark=dark)
    assert page.requested == [report.as_uri()]
    assert page.complaints == []
    assert page.evaluate("document.querySelectorAll('svg.plot').length") == 5
    assert page.evaluate("document.documentElement.scrollWidth") == width, "the page itself never scrolls sideways"
    assert page.evaluate(UNREADABLE) == []


def test_lines_differ_in_colour_from_each_other_and_the_page(page: Page, report: Path) -> None:
    for dark in (False, True):
        page.open(report, dark=dark)
        colours = page.evaluate(
            "[...document.querySelectorAll('.plot .line')].map(e => getComputedStyle(e).stroke)"
            ".concat(getComputedStyle(document.body).backgroundColor)"
        )
        assert "none" not in colours
        assert len(set(colours)) == 7, "six series and the page"


def test_the_browser_of_these_tests_sees_what_a_page_does_wrong(page: Page, tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><body style='width: 2000px'><img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>"
        "<svg class='plot' viewBox='0 0 99 99'><text x='9' y='50'>one</text><text x='9' y='50'>two</text></svg>"
    )
    page.open(bad)
    assert "http://127.0.0.1:9/x.png" in page.requested
    assert any("no" in complaint for complaint in page.complaints)
    assert page.evaluate(UNREADABLE) == ["one | two"]
    assert page.evaluate("document.documentElement.scrollWidth") > 1280


def test_an_empty_report_says_so(page: Page, tmp_path: Path) -> None:
    empty = tmp_path / "empty.html"
    empty.write_text(render_measurements(MeasurementsData("Nothing", "", Measured())), encoding="utf-8")
    page.open(empty, width=400)
    assert "Nothing was measured" in page.evaluate("document.body.innerText")
    assert page.complaints == []
