"""`yard tune` and `yard studies` ask the facade for the right thing and print what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Aim, Answer, Point, Ranked, Standing, Trial
from modelyard.domain.workload import Arrival, Workload
from modelyard.workflow.values import DeployRequest, TuneRequest
from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import STUDY, FakeYard

Yard = Callable[..., Run]

READING = {
    "study": ("studies", "show", "std-012345"),
    "studies": ("studies", "ls", "digits"),
    "tune-plan": ("tune", "digits", "--dry-run"),
    "report": ("studies", "show", "std-012345", "--html", "out.html"),
}


@pytest.mark.parametrize(("kind", "argv"), list(READING.items()))
def test_json_is_one_envelope_on_stdout(kind: str, argv: tuple[str, ...], yard: Yard) -> None:
    run = yard(*argv, "--json", "--quiet")
    assert (run.code, run.err) == (0, "")
    assert (json.loads(run.out)["schema"], json.loads(run.out)["kind"]) == ("modelyard/v1", kind)


@pytest.mark.parametrize("argv", list(READING.values()))
@pytest.mark.parametrize("width", [80, 100])
def test_people_get_text_that_fits(
    argv: tuple[str, ...], width: int, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    run = yard(*argv)
    assert run.code == 0, run.err
    assert "\x1b" not in run.out
    assert max(map(len, run.out.splitlines())) <= width


def test_a_study_says_how_much_of_its_space_was_not_searched(yard: Yard) -> None:
    """Of 8 points 64 x 2 breaks the constraint; the trials are of three."""
    assert (
        "Not searched: 4 of 7 configurations; the constraints exclude 1 more." in yard("studies", "show", "std-0").out
    )


def test_tune_passes_everything_on(yard: Yard, fake: FakeYard, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("knobs: {}\n")
    run = yard(
        *("tune", "digits:1", "--aim", "max rate under p99 <= 5 ms", "--space", "space.yaml", "--strategy", "bayesian"),
        *("--set", "initial=4", "--set", "xi=0.01", "--set", "kind=sobol", "--budget", "9", "--seed", "3"),
        *("--blocks", "2", "--requests", "50", "--duration", "1.5", "--again"),
    )
    assert run.code == 0, run.err
    assert fake.calls == [
        (
            "tune",
            (
                "digits:1",
                TuneRequest(
                    aim=Aim.parse("max rate under p99 <= 5 ms"),
                    space="knobs: {}\n",
                    space_name="space.yaml",
                    strategy="bayesian",
                    options={"initial": 4, "xi": 0.01, "kind": "sobol"},
                    budget=9,
                    seed=3,
                    blocks=2,
                    requests=50,
                    duration_s=1.5,
                    again=True,
                ),
            ),
        )
    ]
    ((_, (_, request)),) = fake.calls
    assert [type(value) for value in request.options.values()] == [int, float, str]


def test_tune_defaults_are_the_requests_own(yard: Yard, fake: FakeYard) -> None:
    assert yard("tune", "digits").code == 0
    assert yard("tune", "digits", "--resume", "std-012345").code == 0
    assert [request for _, (_, request) in fake.calls] == [TuneRequest(), TuneRequest(resume="std-012345")]


def test_a_dry_run_measures_nothing_and_says_what_would_be_searched(yard: Yard, fake: FakeYard) -> None:
    run = yard("tune", "digits", "--dry-run")
    assert [name for name, _ in fake.calls] == ["plan_tune"]
    for said in ("48", "threads=1 max_batch=1", "the default comes first", "threads: {choice: [1, 2]}"):
        assert said in run.out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("--aim", "min max"), 2),
        (("--aim", "max p99 at 10 rps"), 2),
        (("--set", "initial"), 2),
        (("--set", "a=1", "--set", "a=2"), 2),
        (("--space", "nowhere.yaml"), 3),
        (("--budget", "0"), 2),
        (("--again", "--resume", "std-012345"), 2),
        (("--budget", "9", "--resume", "std-012345"), 2),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_starts(
    argv: tuple[str, ...], code: int, yard: Yard, fake: FakeYard
) -> None:
    run = yard("tune", "digits", *argv, "--json")
    assert run.code == code
    assert run.error["hint"]
    assert fake.calls == []


def test_it_shows_each_trial_expected_and_measured_with_its_standing(yard: Yard) -> None:
    run = yard("studies", "show", "std-012345")
    lines = run.out.splitlines()
    (second,) = [line for line in lines if line.startswith("  2 ") or line.lstrip().startswith("2 threads=2")]
    for said in ("threads=2 max_batch=8", "0.900", "0.800", "12.0", "best"):
        assert said in second
    assert "0.760–0.840" in run.out
    assert "97%" in run.out
    assert "dominated" in run.out
    assert "out of [memory]" in run.out
    assert "confirms 2" in run.out


def test_it_says_what_was_found_and_how_to_deploy_it(yard: Yard) -> None:
    out = " ".join(yard("tune", "digits", "--quiet").out.split())
    assert "The best is trial 2: threads=2 max_batch=8, with cost per 1M 0.800 [0.760, 0.840]" in out
    assert "the default has 1.60, 2.00 times as much" in out
    assert "cost 7%, p99 22%" in out
    assert "the budget of 3 is spent" in out
    assert "yard deploy digits:1 --from-study std-01234567" in out


def test_a_p99_that_is_the_timeout_is_not_shown_as_a_latency(yard: Yard, fake: FakeYard) -> None:
    late = [replace(t, result=replace(t.result, p99_ms=Interval(10_000.0))) if t.result else t for t in STUDY.trials]
    fake.found = replace(STUDY, trials=tuple(late), workload=Workload(Arrival.POISSON, rate_rps=200.0, timeout_s=10.0))
    out = yard("studies", "show", "std-012345").out
    assert "timeout" in out.partition("Answer")[0]
    assert "10,000" not in out
    assert "failed or took 10 s in trial" in " ".join(out.split())


def test_knobs_that_all_trials_share_are_said_once(yard: Yard, fake: FakeYard) -> None:
    shared = {"artifact": "onnx", "protocol": "grpc"}
    trials = tuple(replace(t, point=Point.of({**shared, **dict(t.point)})) for t in STUDY.trials)
    fake.found = replace(STUDY, trials=trials, answer=None)
    out = yard("studies", "show", "std-012345").out
    assert "in every trial: artifact=onnx protocol=grpc" in out
    assert out.count("protocol=grpc") == 1


def test_of_several_objectives_it_says_which_trials_are_not_beaten(yard: Yard, fake: FakeYard) -> None:
    def both(trial: Trial) -> Trial:
        if trial.result is None or trial.prediction is None:
            return trial
        result = replace(trial.result, losses=trial.result.losses * 2, values=trial.result.values * 2)
        return replace(trial, result=result, prediction=replace(trial.prediction, losses=trial.prediction.losses * 2))

    ranking = (Ranked(2, Standing.BEST, 0.97), Ranked(1, Standing.BETTER, 0.96), Ranked(4, Standing.TIED, 0.5))
    aim = Aim.parse("min p99 and min cost at 200 rps")
    answer = Answer(2, ranking, "the budget of 3 is spent")
    fake.found = replace(STUDY, aim=aim, trials=tuple(map(both, STUDY.trials)), answer=answer)
    out = " ".join(yard("studies", "show", "std-012345").out.split())
    assert "Not beaten in everything by another: trials 2, 1 and perhaps trial 4." in out
    assert "The best product of the objectives has trial 2" in out


def test_the_line_that_deploys_it_is_one_that_yard_reads(yard: Yard, fake: FakeYard) -> None:
    run = yard("studies", "show", "std-012345")
    (line,) = [line for line in run.out.splitlines() if line.startswith("yard deploy")]
    fake.calls.clear()
    assert yard(*line.split()[1:]).code == 0
    assert fake.calls == [("deploy", ("digits:1", DeployRequest(from_study="std-01234567")))]


def test_nothing_that_holds_the_aim_is_code_4_with_what_came_closest(yard: Yard, fake: FakeYard) -> None:
    answer = Answer(
        None, (Ranked(1, Standing.INFEASIBLE, 1.0),), "the budget of 3 is spent", binding="the nearest: 23 ms"
    )
    fake.found = replace(STUDY, answer=answer)
    run = yard("tune", "digits")
    out = " ".join(run.out.split())
    assert run.code == 4
    assert "holds the aim min cost under p99 <= 20 ms at 200 rps: the nearest: 23 ms." in out
    assert "yard deploy" not in out
    assert yard("studies", "show", "std-012345").code == 0


def test_the_default_is_as_good_is_an_answer(yard: Yard, fake: FakeYard) -> None:
    fake.found = replace(STUDY, answer=replace(STUDY.answer, default_as_good=True))  # type: ignore[type-var]
    run = yard("tune", "digits")
    assert run.code == 0
    assert "The default is as good as anything that was measured" in run.out
    assert "the default is as good" in yard("studies", "ls", "digits").out


def test_an_unfinished_study_says_how_to_go_on(yard: Yard, fake: FakeYard) -> None:
    fake.found = replace(STUDY, answer=None)
    run = yard("studies", "show", "std-012345")
    assert "No answer yet: 3 of 3 trials are done, and the best are yet to be measured again." in " ".join(
        run.out.split()
    )
    assert "yard tune digits:1 --resume std-01234567" in run.out
    assert "unfinished" in yard("studies", "ls", "digits").out


def test_ctrl_c_says_that_trials_are_kept_and_how_to_go_on(yard: Yard) -> None:
    run = yard("tune", "digits", "--budget", "9", over=FakeYard(fail=KeyboardInterrupt()))
    assert run.code == 130
    assert "every finished trial is kept" in run.err
    assert "yard tune digits --budget 9" in run.err


def test_the_report_of_a_study_goes_to_the_file(yard: Yard, fake: FakeYard) -> None:
    run = yard("studies", "show", "std-012345", "--html", "out.html")
    assert fake.calls == [("study", "std-012345"), ("report_study", (STUDY.id, Path("out.html")))]
    assert run.out.strip() == "out.html"


def test_a_trial_is_one_of_a_study(yard: Yard, fake: FakeYard) -> None:
    assert yard("deploy", "digits", "--from-study", "std-012345", "--trial", "2").code == 0
    assert fake.calls == [("deploy", ("digits", DeployRequest(from_study="std-012345", trial=2)))]
    run = yard("deploy", "digits", "--trial", "2")
    assert run.code == 2
    assert "--from-study" in run.err
