"""The report of a study: every trial, the answer first, plots of what there is, whole without a network."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from modelyard.domain.measurement import Interval
from modelyard.domain.study import (
    Aim,
    Answer,
    Point,
    Prediction,
    Ranked,
    Result,
    Standing,
    Study,
    Trial,
    TrialState,
)
from modelyard.profile.plots.study import expected_against_measured, tradeoff, trials_in_order
from modelyard.profile.report_study import StudyData, render_study
from tests.builders import FINGERPRINT


def trial(
    number: int, values: tuple[float, ...], p99: float, *, confirms: int | None = None, error: float = 0.9
) -> Trial:
    """A measured trial; the simulation expected `error` times what was measured. Feasible up to a p99 of 20 ms."""
    spread = [Interval(v, v * 0.93, v * 1.08) for v in values]
    result = Result(
        tuple(map(math.log, values)), (0.04,) * len(values), tuple(spread), Interval(p99, p99 * 0.9, p99 * 1.15),
        feasible=p99 <= 20, verdict="valid",
    )  # fmt: skip
    expected = Prediction(
        tuple(math.log(v * error) for v in values), 200, p99 / 4, p99 / 5, p99 / 2, p99 * error, 0.6, feasible=True
    )
    point = Point.of({"artifact": "onnx", "threads": 1 + number % 4, "max_batch": 2 ** (number % 5), "delay_us": 500})
    return Trial(
        number, point, TrialState.MEASURED, "expected to be best", result, expected, "", 21.5, confirms
    )  # fmt: skip


def study(aim: str = "min cost under p99 <= 20 ms at 200 rps", trials: int = 8) -> Study:
    rng = np.random.default_rng(4)
    parsed = Aim.parse(aim)
    found = [
        trial(
            n, tuple(rng.lognormal(0.2 - 0.05 * n, 0.4, len(parsed.objectives))), 6 + 2.4 * n,
            error=float(rng.lognormal(0, 0.15)),
        )
        for n in range(1, trials + 1)
    ]  # fmt: skip
    lost = Trial(trials + 1, Point.of({"threads": 64}), TrialState.FAILED, "random", detail="<out of memory> & more")
    again = replace(trial(trials + 2, (0.8,) * len(parsed.objectives), 9.0), point=found[1].point, confirms=2)
    answer = Answer(
        trials + 2,
        (
            Ranked(trials + 2, Standing.BEST, 0.96),
            Ranked(1, Standing.TIED, 0.4),
            *(Ranked(n, Standing.DOMINATED, 0.98) for n in range(3, trials)),
            Ranked(trials, Standing.INFEASIBLE, 0.99),
        ),
        "the budget is used up",
        binding="p99 <= 20 ms keeps out threads=1",
        prediction_error={"cost": 0.1},
    )
    return Study(
        id="std-0123456789abcdef0123", model="digits", version=3, aim=parsed, workload=None,
        space="knobs:\n  threads: {integer: [1, 4]}\n", strategy="simulate-verify", options={}, budget=trials + 1,
        seed=0, fingerprint=FINGERPRINT.id, default=found[0].point, trials=(*found, lost, again), answer=answer,
        created_at="2026-11-22T06:00:00+00:00",
    )  # fmt: skip


def page(found: Study) -> str:
    outcomes = tuple("valid" if t.result else f"{t.state}: {t.detail}" for t in found.trials)
    answer = ("The best is <trial 10>.", "Why it stopped: the budget is used up.")
    return render_study(StudyData(found, answer, outcomes, (FINGERPRINT,), (("deploy it", "yard deploy digits:3"),)))


def test_the_page_is_whole_and_says_everything_once() -> None:
    html = page(study())
    words = ("The best is &lt;trial 10&gt;.", "&lt;out of memory&gt; &amp; more", "threads: {integer: [1, 4]}")
    for said in (*words, "yard deploy digits:3", "see 10", "answer</span>", "default</span>", "trial 2 again"):
        assert said in html, said
    assert "<script" not in html
    assert re.findall(r"(?:src|href)=", html) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", html) == []


@pytest.mark.parametrize(
    ("aim", "titles"),
    [
        (
            "min cost under p99 <= 20 ms at 200 rps",
            ["Expected and measured: cost per 1M", "Expected and measured: p99 ms", "The search: cost per 1M",
             "cost per 1M against p99 ms"],
        ),
        ("min p99 at 200 rps", ["Expected and measured: p99 ms", "The search: p99 ms"]),
        (
            "min p99 and min cost at 200 rps",
            ["Expected and measured: p99 ms", "Expected and measured: cost per 1M", "The search: p99 ms",
             "The search: cost per 1M", "p99 ms against cost per 1M"],
        ),
    ],
)  # fmt: skip
def test_each_objective_has_its_plots_and_they_are_xml(aim: str, titles: list[str]) -> None:
    found = study(aim)
    traded = tradeoff(found)
    plots = [*expected_against_measured(found), *trials_in_order(found), *([traded] if traded else [])]
    assert [plot.title for plot in plots] == titles
    for plot in plots:
        ElementTree.fromstring(plot.svg)


def test_a_trial_as_expected_lies_on_the_line_and_one_that_did_more_above_it() -> None:
    base = study(trials=3)
    for error, above in ((1.0, False), (0.5, True)):
        one = replace(base, trials=(trial(1, (2.0,), 9.0, error=error),), answer=None)
        plot = expected_against_measured(one)[0]
        root = ElementTree.fromstring(plot.svg)
        ends = max((_ends(e) for e in root.iter() if e.get("class") == "dash s7"), key=lambda e: e[1][0] - e[0][0])
        (x1, y1), (x2, y2) = ends
        (mark,) = (e[-1] for e in root.iter() if len(e) and (e[0].text or "").startswith("trial 1:"))
        cx, cy = float(mark.get("cx") or 0), float(mark.get("cy") or 0)
        on_line = y1 + (y2 - y1) * (cx - x1) / (x2 - x1)
        assert (cy < on_line - 5) is above
        assert above or abs(cy - on_line) < 0.5


def _ends(path: ElementTree.Element) -> list[tuple[float, ...]]:
    return [tuple(map(float, step.split())) for step in (path.get("d") or "")[1:].split("L")]


def test_the_best_so_far_never_gets_worse_and_counts_only_what_holds_the_aim() -> None:
    found = study()
    cheap = replace(trial(1, (0.01,), 50.0))
    plot = trials_in_order(
        replace(found, trials=(cheap, *(replace(t, number=t.number + 1) for t in found.trials)), answer=None)
    )[0]
    root = ElementTree.fromstring(plot.svg)
    line = next(e for e in root.iter() if e.get("class") == "line s2" and (e.get("d") or "").count("L") > 1)
    heights = [y for _, y in _ends(line)]
    assert heights == sorted(heights)  # lower on the page is cheaper
    assert len(set(heights)) > 1
    (cheap_at,) = (e[-1] for e in root.iter() if len(e) and (e[0].text or "").startswith("trial 1:"))
    assert "wrong" in (cheap_at.get("class") or "")
    assert max(heights) < float((cheap_at.get("d") or "M0 0").split("L")[0].split()[1])


@pytest.mark.parametrize("kept", [0, 1])
def test_a_study_with_little_or_nothing_is_a_page_too(kept: int) -> None:
    base = study()
    for trials in ((), base.trials[:1], (base.trials[8],)):
        html = page(replace(base, trials=trials, answer=None if kept else Answer(None, (), "interrupted")))
        assert "NaN" not in html
        assert "The best is" in html


def test_infinite_losses_and_missing_predictions_draw_nothing_and_break_nothing() -> None:
    lost = Result((math.inf,), (math.inf,), (Interval(0.0),), None, feasible=False, verdict="invalid: no answer")
    odd = Trial(1, Point.of({"threads": 1}), TrialState.MEASURED, "random", lost, None)
    expected = Prediction((math.inf,), 0, math.inf, math.inf, math.inf, math.inf, 0.0, feasible=False, saturated=True)
    found = replace(study(), trials=(odd, replace(trial(2, (1.0,), 9.0), prediction=expected)), answer=None)
    html = page(found)
    assert "NaN" not in html
    assert tradeoff(found) is None
    assert expected_against_measured(found) == []
