"""The plots say what the numbers say: values can be read back from the drawing, doubts are marked, size is bounded."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.measurement import Interval, Validity
from modelyard.domain.workload import Protocol
from modelyard.profile.distribution import MOST_POINTS, Distribution
from modelyard.profile.plots import (
    STYLE,
    Plot,
    Shown,
    latency_distribution,
    memory_and_utilisation,
    round_trips,
    stage_split,
    throughput_against_p99,
)
from modelyard.profile.plots.scales import linear, logarithmic, tail
from modelyard.profile.statistics import percentile
from tests.builders import configuration, measurement
from tests.unit.profile.report_builders import closed, difficult, in_flight, of, poisson, samples, shown

SVG = "{http://www.w3.org/2000/svg}"
GRPC = Protocol.GRPC
value = st.floats(1e-6, 1e9)


def drawn(plot: Plot | None) -> ET.Element:
    assert plot is not None
    return ET.fromstring(plot.svg)


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def of_class(root: ET.Element, word: str) -> list[ET.Element]:
    return [element for element in root.iter() if word in element.get("class", "").split()]


def places(path: ET.Element) -> list[tuple[float, float]]:
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d", ""))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


class TestScales:
    @given(st.lists(value, min_size=1, max_size=20))
    def test_a_logarithmic_scale_holds_its_values_between_few_ticks(self, values):
        scale = logarithmic(values)
        assert scale.low < min(values) <= max(values) < scale.high
        assert 1 <= len(scale.ticks) <= 10
        assert all(scale.low <= tick <= scale.high for tick, _ in scale.ticks)
        shares = [scale.share(v) for v in sorted(values)]
        assert shares == sorted(shares)
        assert 0 <= shares[0] <= shares[-1] <= 1

    @given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20))
    def test_a_linear_scale_begins_at_zero_and_has_ticks_of_one_two_or_five(self, values):
        scale = linear(values)
        assert scale.low == 0 < scale.high
        assert max(values) <= scale.high
        step = scale.ticks[1][0] - scale.ticks[0][0]
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)

    def test_the_usual_ticks_are_one_two_and_five(self):
        assert [name for _, name in logarithmic([0.6, 25]).ticks] == ["1", "2", "5", "10", "20"]
        assert [name for _, name in logarithmic([0.6, 25_000]).ticks] == ["1", "10", "100", "1000", "10k"]

    def test_each_nine_is_as_far_from_the_last(self):
        scale = tail(0.9999)
        assert [name for _, name in scale.ticks] == ["0", "p50", "p90", "p99", "p99.9", "p99.99"]
        steps = np.diff([scale.share(share) for share in (0.0, 0.9, 0.99, 0.999, 0.9999)])
        assert np.allclose(steps, 0.25)


class TestDistribution:
    def test_its_line_is_the_percentiles_of_all_requests(self):
        raw = samples()
        latencies = raw.latencies_ms(10)
        d = Distribution.of(raw, 10)
        for share, latency in zip(d.shares, d.latency_ms, strict=True):
            assert latency == pytest.approx(percentile(latencies, min(float(share), 1 - 1e-9)), rel=1e-9)
        assert d.latency_ms[-1] == latencies.max()
        assert d.mean_ms == pytest.approx(latencies.mean())

    def test_its_band_is_the_t_interval_over_blocks_at_each_percentile(self):
        raw = samples(blocks=4)
        d = Distribution.of(raw, 10)
        at = int(np.searchsorted(d.shares, 0.9))
        logs = np.log([percentile(b.latencies_ms(10), float(d.shares[at])) for b in raw.blocks()])
        half = 3.182446 * logs.std(ddof=1) / 2  # t(0.975) with 3 degrees of freedom, over the root of 4 blocks
        assert d.band is not None
        assert d.band.low_ms[at] == pytest.approx(d.latency_ms[at] * math.exp(-half), rel=1e-5)
        assert d.band.high_ms[at] == pytest.approx(d.latency_ms[at] * math.exp(half), rel=1e-5)
        assert d.band.shares[-1] <= 1 - 1 / 400

    def test_it_is_sure_of_p99_from_459_requests(self):
        assert Distribution.of(samples(blocks=1, requests=459), 10).sure_to >= 0.99
        assert Distribution.of(samples(blocks=1, requests=458), 10).sure_to < 0.99

    def test_few_points_stand_for_many_and_the_extremes_are_among_them(self):
        raw = samples(requests=3000, failed=30)
        d = Distribution.of(raw, 10)
        latencies = raw.latencies_ms(10)
        assert len(d.points_ms) == MOST_POINTS
        assert (d.points_ms[0], d.points_ms[-1]) == (latencies.min(), latencies.max())
        assert np.median(d.points_ms) == pytest.approx(np.median(latencies), rel=0.03)
        assert d.failed == 150
        assert (~d.points_ok).sum() == pytest.approx(0.01 * MOST_POINTS, abs=1)

    def test_one_block_has_no_band_and_one_request_is_a_distribution(self):
        assert Distribution.of(samples(blocks=1), 10).band is None
        lonely = Distribution.of(samples(blocks=1, requests=1), 10)
        assert (lonely.requests, len(lonely.points_ms)) == (1, 1)


class TestLatency:
    def plot(self, **more: object) -> ET.Element:
        raw = samples(requests=2000)
        return drawn(latency_distribution([("first", shown(of("m", raw), 7, raw))], **more))

    def read(self, root: ET.Element, share_name: str) -> float:
        """The latency at which the line crosses a percentile, as a reader finds it: by the ticks."""
        ticks = [
            t
            for t in root.iter(f"{SVG}text")
            if re.fullmatch(r"[\d.]+k?", t.text or "") and t.get("text-anchor") == "middle"
        ]
        at = [(float(t.get("x", "")), math.log10(float((t.text or "").replace("k", "e3")))) for t in ticks]
        (y,) = (float(t.get("y", "")) - 4 for t in root.iter(f"{SVG}text") if t.text == share_name)
        line = places(of_class(root, "line")[-1])
        x = np.interp(-y, [-py for _, py in line], [px for px, _ in line])
        slope, offset = np.polyfit(*zip(*at, strict=True), 1)
        return float(10 ** (slope * x + offset))

    @pytest.mark.parametrize(("name", "share"), [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)])
    def test_percentiles_can_be_read_from_the_drawing(self, name, share):
        truth = percentile(samples(requests=2000).latencies_ms(10), share)
        assert self.read(self.plot(), name) == pytest.approx(truth, rel=0.04)

    def test_what_too_few_requests_say_is_dotted(self):
        root = self.plot()
        assert of_class(root, "dash")
        solid, dotted = places(of_class(root, "line")[-1]), places(of_class(root, "dash")[0])
        assert solid[-1] == dotted[0]

    def test_the_slo_is_a_line_with_its_name(self):
        assert "SLO 9 ms" in texts(self.plot(slo_ms=9.0))
        assert len(of_class(self.plot(slo_ms=9.0), "limit")) == 2  # legend and plot
        assert not of_class(self.plot(), "limit")

    def test_the_stated_intervals_and_the_band_are_there(self):
        root = self.plot()
        assert len(of_class(root, "band")) == 1
        hovers = [t.text or "" for t in root.iter(f"{SVG}title")]
        assert [h.split()[0] for h in hovers if re.match(r"p\d+ \d", h)] == ["p50", "p95", "p99"]

    def test_failures_are_told_and_the_seventh_line_is_not_drawn(self):
        raw = samples(failed=2)
        many = [(f"line {n}", shown(of(f"m{n}", raw), n, raw)) for n in range(8)]
        plot = latency_distribution(many)
        root = drawn(plot)
        assert plot is not None
        assert "2 more are in the table" in plot.caption
        assert "60 of 12,000 requests failed" in plot.caption
        assert len({e.get("class") for e in root if re.fullmatch(r"s\d", e.get("class", ""))}) == 6

    def test_timeouts_of_ten_seconds_do_not_press_milliseconds_into_a_corner(self):
        raw = samples(failed=8)
        root = drawn(latency_distribution([("m", shown(of("m", raw), 1, raw))]))
        assert "10k" not in texts(root)
        assert {"5", "10"} <= set(texts(root))

    def test_without_samples_there_is_no_plot_and_of_one_block_no_band(self):
        assert latency_distribution([("gone", Shown(measurement(), 1))]) is None
        raw = samples(blocks=1)
        plot = latency_distribution([("one", shown(of("m", raw), 1, raw))])
        assert plot is not None
        assert "one block has no spread" in plot.caption
        assert not of_class(drawn(plot), "band")


class TestThroughput:
    def points(self) -> list[Shown]:
        rates = ((1, 100.0, 3.0), (2, 200.0, 4.0), (3, 400.0, 9.0))
        return [
            Shown(
                dataclasses.replace(
                    measurement(f"m{n}", p99=(p99, p99 / 2, p99 * 2), rps=rate), workload=poisson(rate)
                ),
                n,
            )
            for n, rate, p99 in rates
        ]

    def test_doubtful_points_are_marked_and_stay_out_of_the_curve(self):
        drowned = dataclasses.replace(
            measurement("d", p99=(9000, 50, 1e6), rps=800, saturated=True), workload=poisson(800)
        )
        wrong = dataclasses.replace(measurement("w", rps=50, validity=Validity.INVALID), workload=poisson(50))
        root = drawn(plot := throughput_against_p99([*self.points(), Shown(drowned, 4), Shown(wrong, 5)], slo_ms=20))
        assert plot is not None
        assert {"saturated", "invalid", "valid", "SLO 20 ms"} <= set(texts(root))
        assert {"1", "2", "3", "4", "5"} <= set(texts(root))
        (curve,) = [e for e in of_class(root, "s1") if e.tag == f"{SVG}path" and "thin" in e.get("class", "")]
        assert len(places(curve)) == 3
        assert "1 at the upper edge lie above it" in plot.caption

    def test_every_point_has_both_error_bars_and_a_hover(self):
        few = [dataclasses.replace(s, measurement=_with_rate_interval(s)) for s in self.points()]
        groups = [
            e for e in drawn(throughput_against_p99(few)) if e.tag == f"{SVG}g" and e.find(f"{SVG}circle") is not None
        ]
        points = [g for g in groups if (g.findtext(f"{SVG}title") or "").count("\n") == 3]
        assert [len([e for e in g if "thin" in e.get("class", "")]) for g in points] == [2, 2, 2]

    def test_only_the_amount_of_load_varies_along_a_curve(self):
        over_grpc = [
            Shown(
                dataclasses.replace(s.measurement, workload=dataclasses.replace(s.measurement.workload, protocol=GRPC)),
                9,
            )
            for s in self.points()[:1]
        ]
        root = drawn(throughput_against_p99([*self.points(), *over_grpc]))
        assert {"http-binary", "grpc"} <= set(texts(root))
        (curve,) = [e for e in root if e.tag == f"{SVG}path" and "thin" in e.get("class", "")]
        assert len(places(curve)) == 3

    def test_what_has_no_p99_is_counted(self):
        plot = throughput_against_p99([*self.points(), Shown(measurement("short", p99=None), 4)])
        assert plot is not None
        assert "1 more had too few requests for a p99" in plot.caption
        assert throughput_against_p99([Shown(measurement(p99=None), 1)]) is None

    def test_one_rate_for_all_shows_cost_instead(self):
        same = [Shown(measurement(f"m{n}", rps=200 + n, cost=1.0 + n), n) for n in range(3)]
        plot = throughput_against_p99(same)
        assert plot is not None
        assert plot.title == "Cost against p99 (all at about 200 requests/s)"


def _with_rate_interval(s: Shown):
    rate = s.measurement.indicators.throughput_rps.value
    indicators = dataclasses.replace(s.measurement.indicators, throughput_rps=Interval(rate, rate * 0.9, rate * 1.1))
    return dataclasses.replace(s.measurement, indicators=indicators)


class TestStages:
    def test_the_bars_add_up_to_what_the_client_saw(self):
        raw = samples()
        m = of("m", raw)
        root = drawn(stage_split([shown(m, 1, raw)]))
        widths = [float(e.get("width", "")) for e in of_class(root, "bar") if e.find(f"{SVG}title") is not None]
        assert len(widths) == 7
        assert sum(widths[:6]) / sum(widths) == pytest.approx(1.3 / raw.latencies_ms(10).mean(), rel=0.01)

    def test_without_samples_or_mean_the_rest_is_not_guessed(self):
        plot = stage_split([Shown(of("m", samples()), 1)])
        assert plot is not None
        assert "network and client" not in texts(drawn(plot))
        assert "1.30 + ?" in texts(drawn(plot))

    def test_a_saturated_service_does_not_flatten_the_others(self):
        raw, slow = samples(), samples(mean_ms=900.0)
        drowned = of("d", slow, workload=poisson(900), saturated=True)
        plot = stage_split([shown(of("m", raw), 1, raw), shown(drowned, 2, slow)])
        assert plot is not None
        assert [t for t in texts(drawn(plot)) if t.startswith("» ")]
        assert "» marks a bar" in plot.caption

    def test_a_server_without_a_split_has_no_bar(self):
        assert stage_split([Shown(measurement(), 1)]) is None


class TestRoundTrips:
    def levels(self) -> Iterator[Shown]:
        for n, level in enumerate((1, 5, 20)):
            raw = closed(level)
            yield shown(of(f"c{level}", raw, workload=in_flight(level)), n, raw)

    def test_there_are_points_and_a_median_at_each_number_in_flight(self):
        root = drawn(round_trips(list(self.levels())))
        assert [t for t in texts(root) if t in {"1", "5", "20"}] != []
        assert sum(len(re.findall("h0", e.get("d", ""))) for e in of_class(root, "dots")) == 3 * MOST_POINTS
        assert len(places(of_class(root, "line")[-1])) == 3

    def test_medians_rise_where_latency_does(self):
        heights = [y for _, y in places(of_class(drawn(round_trips(list(self.levels()))), "line")[-1])]
        assert heights == sorted(heights, reverse=True)

    def test_one_number_in_flight_or_an_open_loop_is_no_such_plot(self):
        first, *_ = self.levels()
        raw = samples()
        assert round_trips([first, shown(of("o", raw), 9, raw)]) is None

    def test_failed_requests_are_crosses(self):
        raw = samples(failed=20)
        one, two = (shown(of(f"c{n}", raw, workload=in_flight(n)), n, raw) for n in (1, 2))
        root = drawn(round_trips([one, two]))
        assert "failed: full timeout" in texts(root)
        assert len([e for e in of_class(root, "wrong") if "mark" in e.get("class", "")]) == 1 + 2 * 15


class TestUsage:
    def test_the_gpu_is_shown_where_one_was_used(self):
        raw = samples()
        plain = drawn(memory_and_utilisation([shown(of("m", raw), 1, raw)]))
        assert "GPU, %" not in texts(plain)
        with_gpu = of("g", raw, gpu_memory_bytes=2**31, gpu_utilisation=0.37)
        assert {"GPU, MiB", "2,050", "GPU, %", "37.0"} <= set(
            texts(drawn(memory_and_utilisation([Shown(with_gpu, 1)])))
        )

    def test_more_rows_than_a_plot_holds_are_told(self):
        many = [Shown(measurement(f"m{n}", config=configuration(threads=n + 1)), n) for n in range(30)]
        plot = memory_and_utilisation(many)
        assert plot is not None
        assert "6 more are in the table" in plot.caption
        assert memory_and_utilisation([]) is None


def every_plot(rows: list[Shown]) -> list[Plot]:
    named = [(s.measurement.configuration.label, s) for s in rows]
    found = (
        throughput_against_p99(rows, chosen="open1", slo_ms=20),
        latency_distribution(named, 20),
        stage_split(rows),
        round_trips(rows),
        memory_and_utilisation(rows),
    )
    return [plot for plot in found if plot is not None]


def test_hostile_names_are_text_everywhere(tmp_path):
    plots = every_plot(difficult(tmp_path).shown())
    assert len(plots) == 5
    for plot in plots:
        root = ET.fromstring(plot.svg)
        assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {"svg", "g", "path", "rect", "circle", "text", "title"}
        assert not [e for e in root.iter() if {"id", "href", "style", "onload"} & set(e.attrib)]


def test_every_class_has_a_style(tmp_path):
    used = {
        word
        for plot in every_plot(difficult(tmp_path).shown())
        for e in ET.fromstring(plot.svg).iter()
        for word in e.get("class", "").split()
    }
    assert {word for word in used if not re.search(rf"\.{word}\b", STYLE)} == set()


def test_the_same_values_give_the_same_drawing(tmp_path):
    rows = difficult(tmp_path).shown()
    assert every_plot(rows) == every_plot(rows)


def test_a_million_requests_make_no_larger_a_drawing():
    few, many = (samples(requests=n) for n in (2000, 200_000))
    rows = [
        shown(of(f"c{n}", raw, workload=in_flight(level)), n, raw)
        for n, (level, raw) in enumerate([(1, few), (2, many)])
    ]
    small, large = (latency_distribution([("m", row)]) for row in rows)
    assert small is not None
    assert large is not None
    assert len(large.svg) < 1.2 * len(small.svg)
    both = round_trips(rows)
    assert both is not None
    assert len(both.svg) < 40_000
