"""The publish summary holds everything a reader needs to believe it and to use the service."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from modelyard.cli import evidence, layout, render, service_tables, tables
from modelyard.dispatch import AppliedLimits, Throttling
from modelyard.domain.measurement import Interval, Validity, Verdict
from modelyard.domain.services import (
    ModelSettings,
    Release,
    ReplicaSettings,
    ServiceState,
    Serving,
    Tls,
    Tracing,
    VersionPolicy,
)
from modelyard.domain.versions import SourceSpec
from modelyard.hub.values import Lineage
from modelyard.workflow.values import Publication, ServiceStatus, ShadowTraffic, Traffic, VersionTraffic
from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import CHOSEN, NAIVE, PUBLICATION, SERVICE, SUSPECT, FakeYard


def text(shown: object, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False, highlight=False).print(shown)
    return stream.getvalue()


def summary(**changes: object) -> str:
    result: Publication = replace(PUBLICATION, **changes)  # type: ignore[arg-type]
    return text(render.publication(result))


def test_it_says_what_was_proven_rejected_and_failed_and_why() -> None:
    shown = summary()
    assert "1 proven, 1 rejected, 1 failed" in shown
    assert "onnx:int8-static rejected: metric-loss" in shown
    assert "accuracy fell by 0.031" in shown
    assert "openvino:bf16 failed: missing-dependency" in shown
    assert "try: publish on a machine with AMX" in shown
    assert " accuracy " in shown
    assert "0.982 → 0.951" in shown


def test_it_shows_the_indicators_with_intervals_and_marks_chosen_and_naive() -> None:
    shown = summary()
    assert "7.10–9.20" in shown
    assert "95.4 MiB" in shown
    assert "chosen" in shown
    assert "naive" in shown
    assert "load: poisson 200 rps x1 http-binary" in shown


def test_what_misses_the_slo_is_called_closest_not_chosen() -> None:
    shown = summary(choice=replace(PUBLICATION.choice, met=False), service=None, curl=None)
    assert "(closest)" in shown
    assert "(chosen)" not in shown
    assert "NOT met" in shown
    titles = [line for line in shown.splitlines() if line and not line.startswith(" ")]
    assert "Closest" in titles
    assert "Chosen" not in titles
    assert "saving" not in shown
    assert "another SLO: yard publish" in shown


def test_what_came_closest_can_be_deployed_as_it_was_measured() -> None:
    shown = summary(choice=replace(PUBLICATION.choice, met=False), service=None, curl=None)
    line = "yard deploy digits:1 --target onnx --runtime onnxruntime --threads 1 --replicas 1 --max-batch 8"
    assert line in shown.splitlines()


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_table_leaves_columns_out_rather_than_breaking_words(width: int) -> None:
    shown = text(evidence.measurements([SUSPECT, CHOSEN], ids=True), width)
    assert max(map(len, shown.splitlines())) <= width
    for word in ("invalid", "valid", "8.00", "7.10–9.20", "onnxruntime"):
        assert word in shown
    assert ("left out for want of room" in shown) is (" p95 ms " not in shown.partition("left out")[0])
    assert "left out" not in text(evidence.measurements([SUSPECT, CHOSEN], ids=True), 100)


def test_a_services_state_stands_under_each_other() -> None:
    shown = text(service_tables.service(FakeYard().statuses[0])).partition("Replicas")[0]
    assert (
        len(
            {
                len(line) - len(line.split(None, 1)[1])
                for line in shown.splitlines()
                if line.startswith(("state", "service", "HTTP", "files"))
            }
        )
        == 1
    )


def test_an_id_is_short_enough_to_stay_whole() -> None:
    shown = text(tables.measurements([replace(CHOSEN, id="msr-0123456789abcdef0123")], ids=True))
    assert "msr-01234567\n" in "".join(f"{line.split('  ')[0].strip()}\n" for line in shown.splitlines())


def test_bytes_are_shown_as_text() -> None:
    answer = {"label": np.array([b"setosa", "caf\u00e9".encode()], dtype=object)}
    assert "['setosa' 'café']" in text(tables.prediction(answer))


def test_an_invalid_number_never_stands_as_if_it_were_good() -> None:
    shown = text(evidence.measurements([SUSPECT, CHOSEN]))
    assert "(88.8" in shown
    assert " 88.8 " not in shown
    assert "invalid" in shown
    assert "1 of 2: client saturated: send lag p99 4.2 ms" in shown


def test_it_says_why_the_choice_and_what_it_saves() -> None:
    shown = summary()
    assert "the cheapest of 2 that meet the SLO" in shown
    assert "met: p99 <= 20 ms at 200 rps" in shown
    assert "the naive deployment costs 4.94x as much per request" in shown
    assert "0.830 USD per 1M requests" in shown


def test_a_saving_that_is_none_is_not_dressed_up() -> None:
    choice = PUBLICATION.choice
    assert "none: the naive deployment is the best" in summary(choice=replace(choice, chosen=NAIVE, cost_ratio=1.0))
    assert "none: it costs 1.30x as much" in summary(choice=replace(choice, cost_ratio=0.77))
    assert "none shown: the confidence intervals" in summary(choice=replace(choice, cost_ratio=None))
    bad = replace(NAIVE, verdict=Verdict(Validity.INVALID, ("client saturated",)))
    assert "unknown: the naive" in summary(choice=replace(choice, naive=bad, cost_ratio=None))


def test_nothing_measurable_is_said_plainly() -> None:
    choice = replace(
        PUBLICATION.choice, chosen=None, naive=None, considered=(), met=False, reason="the machine was busy"
    )
    shown = summary(choice=choice, service=None, curl=None)
    assert "Nothing could be chosen. the machine was busy" in shown
    assert "no measurements" in shown
    assert "yard deploy digits:1" in shown
    assert "yard publish digits:1 --effort thorough" in shown


def test_reasons_that_differ_in_figures_only_are_one_line() -> None:
    late = [replace(SUSPECT, verdict=Verdict(Validity.INVALID, (f"p99 lag {lag} ms",))) for lag in (1.5, 2.25, 1.5)]
    assert "3 of 3: p99 lag 1.5 ms (and alike)" in text(evidence.measurements(late))


def test_the_curl_line_is_one_line_to_copy_however_long(yard: Callable[..., Run]) -> None:
    assert PUBLICATION.curl in yard("publish", "digits:1").out.splitlines()


def test_it_ends_with_how_to_reach_and_stop_the_service() -> None:
    shown = summary()
    for needed in (
        "http://127.0.0.1:8123",
        "127.0.0.1:8124",
        "digits-report.html",
        "yard services stop digits",
        "logits[1, 10]",
    ):
        assert needed in shown


def test_user_text_is_never_markup() -> None:
    version = PUBLICATION.version
    odd = replace(version, description=replace(version.description, tags=("[red]x[/red]", "[/]")))
    assert "[red]x[/red]" in text(tables.versions([odd]))


def test_a_source_is_called_trusted_only_where_somebody_said_so() -> None:
    version = PUBLICATION.version
    ways = [({"factory": "net:build"}, True, "(runs net.py)"), ({}, True, "(trusted)"), ({}, False, "m.x")]
    for options, trusted, end in ways:
        source = SourceSpec("pytorch-eager", "m.x", options, trusted)
        of = Lineage(replace(version, definition=replace(version.definition, source=source)))
        line = next(line for line in text(tables.version(of)).splitlines() if "m.x" in line)
        assert line.rstrip().endswith(end)


def test_numbers_read_like_numbers() -> None:
    cases = {
        0.0: "0",
        0.01234: "0.0123",
        1.5: "1.50",
        12.345: "12.3",
        1234.5: "1,230",
        123456.0: "123,000",
        72943.0: "72,900",
        1.999e6: "2,000,000",
        9.999: "10.0",
        2.5e-7: "2.5e-07",
    }
    assert {value: layout.number(value) for value in cases} == cases
    assert layout.number(None) == layout.number(float("nan")) == "-"
    assert layout.interval(Interval(5.0)) == "5.00"
    assert layout.interval(None) == "-"
    assert [layout.size(n) for n in (0, 1023, 1536, 10**9)] == ["0 B", "1023 B", "1.5 KiB", "954 MiB"]


@pytest.mark.parametrize(("bounds", "shown"), [((3.0, 12.0), "5.00\n3.00–12.0"), ((0.4, 60.0), "5.00\n2 blocks:")])
def test_bounds_of_two_blocks_that_say_nothing_are_not_shown(bounds: tuple[float, float], shown: str) -> None:
    value = Interval(5.0, *bounds)
    assert layout.interval(value, 2).startswith(shown)
    assert layout.interval(value, 3).startswith("5.00\n" + layout.number(bounds[0])), "three blocks are believed"
    measured = replace(CHOSEN, workload=replace(CHOSEN.workload, blocks=2))
    measured = replace(measured, indicators=replace(measured.indicators, p99_ms=value, p50_ms=value))
    said = "2 blocks: no usable interval" in text(tables.measurement(measured))
    assert said == shown.endswith("2 blocks:")
    assert "no usable interval" not in text(tables.measurement(replace(measured, workload=CHOSEN.workload)))


def test_a_service_shows_who_gets_what_and_how_its_shadow_compares() -> None:
    found = replace(
        SERVICE,
        others=(Release(4, SERVICE.configuration), Release(5, SERVICE.configuration)),
        policy=VersionPolicy(labels={"next": 4}, canary={4: 0.1}, shadow=5, default=1),
        serving=Serving(
            ModelSettings(cache_bytes=2**20, classes=("a", "b")),
            ReplicaSettings(tls=Tls("c", "k"), unix_socket="/run/s.sock", tracing=Tracing(0.01, "/t.jsonl")),
            "/etc/serving.yaml",
        ),
    )
    versions = (
        VersionTraffic(1, 0.9, False, (), 180, 1, 2),
        VersionTraffic(4, 0.1, False, ("next",), 20, 0, 0),
        VersionTraffic(5, 0.0, True, (), 150, 0, 0),
    )
    shadow = ShadowTraffic(5, 200, 50, 0, 150, 3, 0.125, 150, 147)
    traffic = Traffic(versions, shadow, 1, "1 of 2 replicas answered: timed out")
    shown = text(service_tables.service(ServiceStatus(found, ServiceState.READY, (), traffic=traffic)))
    for said in (
        "digits:4 (canary 0.1, label next), digits:5 (shadow)",
        "cache 1.0 MiB, classes 2, tls on, unix_socket /run/s.sock, tracing 0.01 to /t.jsonl",
        "/etc/serving.yaml",
        "150 of 200 requests (50 not copied: busy, 0 failed)",
        "147 of 150 rows (98.00%)",
        "not all replicas are counted: 1 of 2 replicas answered: timed out",
    ):
        assert said in " ".join(shown.split()), said
    lines = [line.split() for line in shown.splitlines()]
    assert ["digits:1", "0.9", "180", "1", "2"] in lines
    assert ["digits:4", "0.1", "next", "20", "0", "0"] in lines
    assert ["digits:5", "shadow", "150", "0", "0"] in lines


def test_a_service_says_what_holds_its_limits_and_how_often_that_stopped_it() -> None:
    plain = FakeYard().statuses[0]
    capped = replace(plain.service.configuration, cpu_limit=0.5, memory_limit_bytes=2**30)
    counted = AppliedLimits(
        memory_bytes=2**30,
        memory_enforcement="polling",
        cpu_limit=0.5,
        cpu_enforcement="cgroup-v1",
        throttling=Throttling(periods=200, throttled=30, stopped_s=0.25),
    )
    status = replace(plain, service=replace(plain.service, configuration=capped), limits=(counted, counted))
    shown = text(service_tables.service(status), 160)
    assert "1.0 GiB per replica, held by polling" in shown
    assert "0.5 cores per replica, held by cgroup-v1 at 0.5; stopped in 60 of 400 periods, 0.5 s in all" in shown
    stopped = text(service_tables.service(replace(status, limits=())), 160)
    assert [line.split(None, 2)[2].strip() for line in stopped.splitlines() if line.startswith("CPU limit")] == [
        "0.5 cores per replica"
    ]
