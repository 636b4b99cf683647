"""The report of a study in a real browser: nothing is fetched, nothing complains, no word covers another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Page, browser
from tests.integration.test_report_browser import UNREADABLE
from tests.unit.profile.test_report_study import page as study_page
from tests.unit.profile.test_report_study import study


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize(
    ("aim", "trials", "plots"),
    [
        ("min cost under p99 <= 20 ms at 200 rps", 14, 4),
        ("min p99 and min cost at 200 rps", 50, 5),
        ("max throughput at 16 concurrent", 3, 4),
    ],
)
def test_the_report_of_a_study_is_readable_and_asks_nobody_for_anything(
    aim: str, trials: int, plots: int, width: int, page: Page, tmp_path: Path
) -> None:
    report = tmp_path / "study.html"
    report.write_text(study_page(study(aim, trials)), encoding="utf-8")
    page.open(report, width=width, dark=width == 400)
    assert page.requested == [report.as_uri()]
    assert page.complaints == []
    assert page.evaluate("document.querySelectorAll('svg.plot').length") == plots
    assert page.evaluate("document.documentElement.scrollWidth") == width, "the page itself never scrolls sideways"
    assert page.evaluate(UNREADABLE) == []
