"""The report holds every number and reason, escapes what it is given, and needs nothing from a network."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.artifacts import (
    Conversion,
    Equivalence,
    FailureClass,
    MetricAgreement,
    Outcome,
    OutputAgreement,
    RejectionReason,
    Target,
    Tolerance,
)
from modelyard.domain.configuration import Slo
from modelyard.domain.measurement import Interval, Measurement, StageTimes, Validity, Verdict
from modelyard.domain.services import Endpoint, Service
from modelyard.domain.versions import Definition, Description, SourceSpec, Version
from modelyard.profile.report import ReportData, render_html
from modelyard.profile.report_measured import Measured
from modelyard.profile.samples import Samples
from tests.builders import SIGNATURE, configuration, measurement
from tests.unit.profile.builders import queue_block

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Balance(HTMLParser):
    """Fails on tags that are not closed in order, and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


TOLERANCE = Tolerance(1e-4, 1e-3, 0.0, 0.9999, 1.0, 0.001)


def conversion(name: str, outcome: Outcome, **more) -> Conversion:
    base = Conversion(
        name, name, "digits", 1, "src", Target("onnx"), f"route-{name}", outcome, "", 1.0, 2**20, {"onnx": "1.23"}
    )
    return dataclasses.replace(base, **more)


@pytest.fixture
def data(tmp_path: Path) -> ReportData:
    samples = {}
    for name, mean_s in (("best", 0.001), ("plain", 0.004)):
        blocks = []
        for number in range(3):
            rng = np.random.default_rng(number)
            blocks.append(queue_block(100, rng.exponential(mean_s, 300), rng, number=number))
        samples[name] = tmp_path / f"{name}.npz"
        Samples.join(blocks).save(samples[name])
    best = measurement("best", cost=0.5)
    best = dataclasses.replace(
        best, indicators=dataclasses.replace(best.indicators, stages=StageTimes(0.1, 0.2, 0, 0.7, 0, 0.01, 2.0))
    )
    plain = measurement("plain", config=configuration("src", threads=2), cost=2.0)
    bad = measurement("bad", p99=(77.77, 70.0, 80.0), validity=Validity.INVALID)
    bad = dataclasses.replace(bad, verdict=Verdict(Validity.INVALID, ("client saturated: late",)))
    outputs = (OutputAgreement("logits", 1000, 1.25, 0.1, 0.97, 0.3, 0.94),)
    proof = Equivalence(
        Outcome.REJECTED, RejectionReason.DECISION_DISAGREEMENT, "", ("batch 1",), outputs,
        (MetricAgreement("accuracy", 0.98, 0.91, 360),), TOLERANCE, "onnxruntime",
    )  # fmt: skip
    return ReportData(
        version=Version(
            "digits",
            1,
            "ab" * 32,
            Definition("digits", "pytorch", SourceSpec("pytorch-exported", "digits.pt2"), SIGNATURE),
            Description("<script>alert(1)</script>"),
            "src",
            "2026-11-20T12:00:00.123456+02:00",
            ("production",),
        ),
        conversions=(
            conversion("good", Outcome.PROVEN),
            conversion("worse", Outcome.REJECTED, equivalence=proof, detail="agreement 0.94 < 1"),
            conversion("none", Outcome.FAILED, failure=FailureClass.OUT_OF_MEMORY, hint="raise the limit"),
        ),
        measured=Measured((best, plain, bad), samples),
        chosen="best",
        cost_ratio=4.0,
        naive="plain",
        reason="the cheapest that meets the SLO",
        slo=Slo(20, 200),
        service=Service("digits", "digits", 1, best.configuration, Endpoint("127.0.0.1", 8123), "/x", "now"),
        commands=(("again", "yard publish model.yaml"),),
    )


def of(data: ReportData, *measurements: Measurement, **more) -> ReportData:
    """With other measurements, the samples as they are."""
    return dataclasses.replace(data, measured=Measured(measurements, data.measured.samples), **more)


def parse(html: str) -> Balance:
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_the_report_is_well_formed_and_fetches_nothing(data):
    parser = parse(html := render_html(data))
    assert parser.fetched == []
    assert "script" not in parser.tags
    assert len(parser.ids) == len(set(parser.ids))
    assert not re.search(r"@import|url\((?!#)", html)


def test_what_users_wrote_is_escaped(data):
    assert "&lt;script&gt;alert(1)" in render_html(data)


def test_it_says_what_was_chosen_why_and_what_it_saves(data):
    html = render_html(data)
    for text in ("the cheapest that meets the SLO", "p99 &lt;= 20 ms at 200 rps", "4×", "8123", "faster at p99"):
        assert text in html


def _confirmed(data: ReportData) -> ReportData:
    """As publish leaves it: the chosen measurement is the one that was made again with a fresh seed."""
    best = data.measured.measurements[0]
    again = dataclasses.replace(best, id="again", workload=dataclasses.replace(best.workload, seed=7))
    samples = {**data.measured.samples, "again": data.measured.samples["best"]}
    return dataclasses.replace(data, measured=Measured((*data.measured.measurements, again), samples), chosen="again")


def test_a_confirmed_choice_is_compared_under_the_schedules_of_the_naive_one(data):
    html = render_html(_confirmed(data))
    assert "paired blocks" in html
    assert "row 1, the same configuration under the naive one" in html
    assert re.search(r"chosen: [^<]*\(1\)", html)
    assert "caution" not in html


def test_without_such_a_measurement_the_caution_names_the_seeds(data):
    confirmed = _confirmed(data)
    html = render_html(of(confirmed, *confirmed.measured.measurements[1:]))
    assert "independent blocks" in html
    assert "caution: with different seeds (0 and 7)" in html


def test_what_only_came_closest_is_not_called_chosen(data):
    html = render_html(dataclasses.replace(data, met=False))
    for text in ("What came closest", "NOT met", 'class="badge mark">closest<', "the closest is", "closest: "):
        assert text in html
    assert "What was chosen" not in html
    assert "chosen</text>" not in html
    met = render_html(dataclasses.replace(data, met=True))
    assert "at 200 rps</strong>, met" in met
    assert "chosen</text>" in met


def test_a_naive_choice_is_not_compared_with_itself(data):
    plain = data.measured.measurements[1]
    again = dataclasses.replace(plain, id="again", workload=dataclasses.replace(plain.workload, seed=7))
    html = render_html(of(data, *data.measured.measurements, again, chosen="again"))
    assert "Against the naive deployment" not in html
    assert "than naive" not in html


def test_times_are_in_utc_to_the_second(data):
    assert "registered 2026-11-20 10:00:00 UTC" in render_html(data)


def test_the_cost_stands_with_its_interval_and_no_cost_is_told_rather_than_zero(data):
    best, plain, _ = data.measured.measurements
    sure = dataclasses.replace(best.indicators, cost_interval=Interval(0.5, 0.4, 0.625))
    none = dataclasses.replace(plain.indicators, cost_per_million=0.0, core_s_per_request=0.0)
    measured = (dataclasses.replace(best, indicators=sure), dataclasses.replace(plain, indicators=none))
    html = render_html(of(data, *measured, cost_ratio=None))
    parse(html)
    assert html.count("0.4 – 0.625") == 2
    assert html.count("too little CPU time to tell") == 1
    assert "than naive" not in html
    untold = render_html(of(data, *measured, chosen="plain", naive=None))
    assert untold.count("too little CPU time to tell") == 2


def test_every_conversion_shows_its_outcome_and_reason(data):
    html = render_html(data)
    for text in (
        "decision-disagreement",
        "agreement 0.94 &lt; 1",
        "out-of-memory",
        "raise the limit",
        "1.25e+00",
        "0.9100",
    ):
        assert text in html


def test_an_invalid_number_is_struck_and_its_reason_given(data):
    html = render_html(data)
    assert re.search(r'class="struck">77\.8<', html)
    assert "client saturated: late" in html
    valid_only = render_html(of(data, *data.measured.measurements[:2]))
    assert 'class="struck"' not in valid_only


def test_every_plot_that_has_data_is_parsable_svg(data):
    plots = re.findall(r"<svg.*?</svg>", render_html(data), flags=re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        ET.fromstring(plot)


def test_the_same_data_gives_the_same_report(data):
    assert render_html(data) == render_html(data)


def test_a_version_without_measurements_has_a_report(data):
    bare = ReportData(version=data.version, reason="nothing could be measured")
    html = render_html(bare)
    parse(html)
    assert "Nothing was chosen" in html
    assert "nothing could be measured" in html


def test_measurements_without_samples_or_p99_still_make_a_report(data):
    short = dataclasses.replace(measurement("best", p99=None), blocks_discarded=2)
    html = render_html(dataclasses.replace(data, measured=Measured((short,)), naive=None))
    parse(html)
    assert "2 discarded for noise" in html
