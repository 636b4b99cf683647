"""Each command asks the facade for the right thing and prints what it answers, for people and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.domain.artifacts import Outcome, Target
from modelyard.domain.configuration import Batching, Slo
from modelyard.domain.errors import BackendFailed
from modelyard.domain.services import ModelSettings, Release, Serving
from modelyard.domain.workload import Arrival, Protocol, Scenario, TraceLayout
from modelyard.hub.values import DescriptionChanges, MetricFilter, VersionQuery
from modelyard.profile.traces import TraceFile
from modelyard.workflow.values import (
    DeployRequest,
    FailedCell,
    Finding,
    ProfileRequest,
    PublishRequest,
    SkippedConfiguration,
    Sweep,
)
from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import CHOSEN, CONVERSIONS, PUBLICATION, FakeYard, conversion

Yard = Callable[..., Run]

READING = {
    "models": ("models", "ls"),
    "versions": ("models", "ls", "digits"),
    "version": ("models", "show", "digits:1"),
    "version-page": ("models", "search"),
    "version-diff": ("models", "diff", "digits:1", "digits:2"),
    "aliases": ("models", "alias", "digits"),
    "alias-history": ("models", "alias", "digits", "production", "--history"),
    "alias-event": ("models", "rollback", "digits", "production"),
    "freed": ("gc", "--dry-run"),
    "conversions": ("convert", "digits"),
    "measurements": ("profile", "digits"),
    "measurement": ("measurements", "show", "best"),
    "publication": ("publish", "digits:1"),
    "service": ("deploy", "digits:1"),
    "services": ("services", "ls"),
    "service-status": ("services", "show", "digits"),
    "stopped": ("services", "stop", "digits"),
    "findings": ("doctor",),
    "settings": ("config", "show"),
    "report": ("report", "digits", "--html", "out.html"),
    "exported": ("measurements", "export", "digits", "--out", "out.csv"),
}


@pytest.mark.parametrize(("kind", "argv"), list(READING.items()))
def test_json_is_one_envelope_on_stdout_and_quiet_leaves_stderr_empty(
    kind: str, argv: tuple[str, ...], yard: Yard
) -> None:
    run = yard(*argv, "--json", "--quiet")
    assert run.code == 0, run.err
    envelope = json.loads(run.out)
    assert (envelope["schema"], envelope["kind"]) == ("modelyard/v1", kind)
    assert "data" in envelope
    assert run.err == ""


@pytest.mark.parametrize("argv", [a for k, a in READING.items() if k != "stopped"])
def test_people_get_text_that_fits_100_columns_without_colour(argv: tuple[str, ...], yard: Yard) -> None:
    run = yard(*argv)
    assert run.code == 0, run.err
    assert run.out.strip()
    assert "\x1b" not in run.out
    prose = [line for line in run.out.splitlines() if not line.startswith("curl ")]
    assert max(map(len, prose)) <= 100


def test_version_says_both_versions(yard: Yard) -> None:
    assert yard("--version").out.startswith("modelyard 0.")
    assert yard("version", "--json").data.keys() == {"modelyard", "python"}


def test_quiet_leaves_stderr_empty_and_without_it_progress_is_there(yard: Yard) -> None:
    assert yard("convert", "digits", "--quiet").err == ""
    assert "[convert  50%] onnx" in yard("convert", "digits").err


def test_with_json_progress_is_plain_lines(yard: Yard) -> None:
    run = yard("convert", "digits", "--json")
    assert run.err == "[convert  50%] onnx\n"
    assert len(run.data) == len(CONVERSIONS)


@pytest.mark.parametrize("option", ["--json", "--debug"])
def test_a_variable_that_nothing_reads_is_warned_of(option: str, yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOEM", "/x")
    run = yard("models", "ls", option)
    assert (run.code, run.err) == (0, "warning: MODELYARD_HOEM is no setting; did you mean MODELYARD_HOME?\n")
    assert yard("models", "ls", "--quiet").err == ""


def test_a_home_that_cannot_be_is_told_in_three_lines(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = yard("models", "ls", "--home", "file")
    assert run.code == 2
    assert [line[:7] for line in run.err.splitlines()] == ["error: ", "  why: ", "  try: "]
    assert "MODELYARD_HOME" in run.err


def test_home_wins_over_the_environment(yard: Yard, tmp_path: Path) -> None:
    for argv in (("--home", "other", "config", "show", "--json"), ("config", "show", "--json", "--home", "other")):
        rows = {row["name"]: row for row in yard(*argv).data}
        assert rows["home"]["value"] == str(tmp_path / "other")
        assert rows["home"]["origin"] == "--home"


def test_config_show_hides_passwords_and_names_origins(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_DATABASE_URL", "postgresql://me:secret@db/hub")
    run = yard("config", "show", "--json")
    rows = {row["name"]: row for row in run.data}
    assert "secret" not in run.out
    assert rows["database_url"] == {
        "name": "database_url",
        "value": "postgresql://me:***@db/hub",
        "variable": "MODELYARD_DATABASE_URL",
        "origin": "environment",
    }
    assert rows["trust"]["origin"] == "default"


def test_register_takes_the_folder_of_a_manifest(yard: Yard, fake: FakeYard, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.yaml").write_text("name: digits")
    run = yard("register", "m", "--trust")
    assert run.code == 0
    assert "digits:1" in run.out
    assert fake.calls == [("register", (Path("m/model.yaml"), True))]


def test_a_manifest_that_is_not_there_is_code_3(yard: Yard) -> None:
    for argv in (("register", "none.yaml"), ("publish", "none.yaml"), ("register", "digits")):
        run = yard(*argv)
        assert run.code == 3
        assert "there is no manifest" in run.err


def test_publish_passes_everything_on(yard: Yard, fake: FakeYard) -> None:
    argv = "--to onnx,openvino --effort quick --no-deploy --name d --host ::1 --html r.html --trust"
    argv += " --port 8000 --grpc-port 8001"
    assert yard("publish", "digits:1", "--slo", "p99 <= 5 ms at 50 rps", *argv.split()).code == 0
    request = PublishRequest(Slo(5, 50), ("onnx", "openvino"), "quick", False, "d", "::1", 8000, 8001, "r.html")
    assert fake.calls == [("publish", ("digits:1", request, True))]


def test_publish_that_misses_the_slo_shows_all_and_ends_with_4(yard: Yard) -> None:
    missed = replace(PUBLICATION, choice=replace(PUBLICATION.choice, met=False))
    run = yard("publish", "digits:1", over=FakeYard(publication=missed))
    assert run.code == 4
    assert "NOT met: p99 <= 20 ms at 200 rps" in run.out


def test_the_line_that_deploys_the_closest_is_one_that_yard_reads(yard: Yard, fake: FakeYard) -> None:
    missed = replace(PUBLICATION, choice=replace(PUBLICATION.choice, met=False), service=None, curl=None)
    out = yard("publish", "digits:1", over=FakeYard(publication=missed)).out
    (line,) = [line for line in out.splitlines() if line.startswith("yard deploy")]
    assert yard(*line.split()[1:]).code == 0
    c = CHOSEN.configuration
    request = DeployRequest(
        target=c.target, runtime=c.runtime, threads=c.threads, replicas=c.replicas, batching=c.batching
    )
    assert fake.calls == [("deploy", ("digits:1", request))]


@pytest.mark.parametrize("argv", [("--slo", "fast"), ("--to", "onnx,,")])
def test_publish_refuses_what_it_cannot_read(argv: tuple[str, ...], yard: Yard, fake: FakeYard) -> None:
    run = yard("publish", "digits:1", *argv)
    assert run.code == 2
    assert "  try: write" in run.err
    assert fake.calls == []


def test_profile_passes_every_axis_on(yard: Yard, fake: FakeYard) -> None:
    argv = (
        "--batch 1,8 --target onnx,onnx:int8-static --runtime onnxruntime,openvino --device gpu:0 --threads 1,2 "
        "--max-batch 1,16 "
        "--max-delay-us 500 --replicas 1,2 --rate 50,80.5 --arrival constant --protocol grpc,http-json --blocks 3 "
        "--requests 200 --duration 2 --seed 7 --again"
    )
    assert yard("profile", "digits:1", *argv.split()).code == 0
    request = ProfileRequest(
        batches=(1, 8),
        targets=(Target("onnx"), Target("onnx", "int8-static")),
        runtimes=("onnxruntime", "openvino"),
        device="gpu:0",
        threads=(1, 2),
        max_batches=(1, 16),
        max_delay_us=500,
        replicas=(1, 2),
        rates_rps=(50.0, 80.5),
        arrival=Arrival.CONSTANT,
        protocols=(Protocol.GRPC, Protocol.HTTP_JSON),
        blocks=3,
        requests=200,
        duration_s=2.0,
        seed=7,
        again=True,
    )
    assert fake.calls == [("profile", ("digits:1", request))]


def test_a_list_may_be_given_in_parts(yard: Yard, fake: FakeYard) -> None:
    argv = "--target onnx --target openvino,torchscript --threads 1 --threads 2 --rate 50 --rate 1e2 --protocol grpc"
    assert yard("profile", "d", *argv.split(), "--protocol", "http-json").code == 0
    targets = (Target("onnx"), Target("openvino"), Target("torchscript"))
    protocols = (Protocol.GRPC, Protocol.HTTP_JSON)
    wanted = ProfileRequest(targets=targets, threads=(1, 2), rates_rps=(50.0, 100.0), protocols=protocols)
    assert fake.calls == [("profile", ("d", wanted))]


@pytest.mark.parametrize("argv", ["--to onnx,openvino", "--to onnx --to openvino"])
def test_convert_takes_targets_in_one_list_or_in_parts(argv: str, yard: Yard, fake: FakeYard) -> None:
    yard("convert", "d", *argv.split())
    assert fake.calls == [("convert", ("d", ("onnx", "openvino")))]


@pytest.mark.parametrize(
    ("argv", "needs"), [("--arrival gamma --rate 10", "needs --cv"), ("--arrival ramp --rate 10", "needs --end-rate")]
)
def test_arrivals_without_their_number_are_told_which(argv: str, needs: str, yard: Yard) -> None:
    run = yard("profile", "d", *argv.split())
    assert run.code == 2
    assert needs in run.err


def test_profile_passes_arrivals_scenario_and_trace_on(yard: Yard, fake: FakeYard) -> None:
    argv = (
        "--trace t.csv --trace-layout counts --trace-column requests --trace-interval 1 --trace-function f "
        "--trace-start 5",
        "--cv 4 --rate 50",
        "--arrival ramp --rate 50 --end-rate 400",
        "--scenario server --rate 50 --slo",
    )
    for text in argv[:-1]:
        assert yard("profile", "d", *text.split()).code == 0
    assert yard("profile", "d", *argv[-1].split(), "p99 <= 20 ms").code == 0
    trace = TraceFile(Path("t.csv"), TraceLayout.COUNTS, "requests", 1.0, "f")
    assert [request for _, (_, request) in fake.calls] == [
        ProfileRequest(trace=trace, trace_start_s=5.0),
        ProfileRequest(cv=4.0, rates_rps=(50.0,)),
        ProfileRequest(arrival=Arrival.RAMP, rates_rps=(50.0,), end_rate_rps=400.0),
        ProfileRequest(scenario=Scenario.SERVER, rates_rps=(50.0,), slo=Slo(20.0)),
    ]


def test_failed_cells_end_with_exit_code_1_and_the_rest_is_printed(yard: Yard, fake: FakeYard) -> None:
    failed = FailedCell(CHOSEN.configuration, CHOSEN.workload, BackendFailed("it broke"))
    skipped = SkippedConfiguration(CHOSEN.configuration, "2 replicas x 2 threads need 4 cores")
    fake.sweep = Sweep((CHOSEN,), (failed,), (skipped,))
    run = yard("profile", "digits", "--json")
    assert run.code == 1
    assert [m["id"] for m in json.loads(run.out)["data"]] == [CHOSEN.id]
    assert "skipped" in run.err.splitlines()[0]
    error = json.loads(run.err.splitlines()[-1])["error"]
    assert error["what"] == "1 of 2 cells failed"
    assert "it broke" in error["why"]


def test_the_help_of_profile_has_its_options_in_groups(yard: Yard) -> None:
    text = yard("profile", "--help").out
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Arguments:"
    assert headings[-2:] == ["Common options:", "Options:"]
    assert len(headings) == 7


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("profile", "d", "--rate", "50,x"), "--rate 50,x is not a list of rates"),
        (("profile", "d", "--arrival", "trace"), "--arrival trace needs --trace"),
        (("profile", "d", "--trace-start", "5"), "the --trace-... options are of a trace"),
        (("profile", "d", "--protocol", "grpc,smoke"), "--protocol has no 'smoke'"),
        (("profile", "d", "--arrival", "poisson"), "--arrival poisson needs --rate"),
        (("profile", "d", "--arrival", "closed", "--rate", "5"), "a closed loop has no --rate"),
        (("profile", "d", "--closed", "2", "--lengthen", "30"), "longer blocks (--lengthen) are of a steady rate"),
        (
            ("profile", "d", "--rate", "5", "--end-rate", "9", "--lengthen", "30"),
            "longer blocks (--lengthen) are of a steady rate",
        ),
        (("profile", "d", "--rate", "5", "--lengthen", "inf"), "longer blocks of inf s"),
        (("profile", "d", "--closed", "2", "--rate", "5"), "--rate is an open loop, --closed a closed one"),
        (("deploy", "d", "--port", "5555", "--grpc-port", "5555"), "--port and --grpc-port are both 5555"),
        (("publish", "d", "--port", "5555", "--grpc-port", "5555"), "--port and --grpc-port are both 5555"),
        (("deploy", "d", "--name", "No Name"), "'No Name' is not a valid service name"),
        (("publish", "d", "--name", "No Name"), "'No Name' is not a valid service name"),
        (("deploy", "d", "--canary", "d:2"), "--canary d:2 has not two sides"),
        (("deploy", "d", "--canary", "d:2=1.5"), "--canary d:2=1.5: '1.5' is not a share"),
        (("deploy", "d", "--canary", "d:2=nan"), "--canary d:2=nan: 'nan' is not a share"),
        (("deploy", "d", "--canary", "d:2=.1", "--canary", "d:2=.2"), "--canary d:2 is given twice"),
        (("deploy", "d", "--label", "=d:2"), "--label =d:2 has not two sides"),
        (("deploy", "d", "--label", "a/b=d:2"), "'a/b' is not a valid label name"),
        (("deploy", "d", "--label", "a=d:2", "--label", "a=d:3"), "--label a is given twice"),
    ],
)
def test_options_that_contradict_are_refused_before_anything_starts(
    argv: tuple[str, ...], said: str, yard: Yard, fake: FakeYard
) -> None:
    run = yard(*argv)
    assert (run.code, run.err.splitlines()[0], fake.calls) == (2, f"error: {said}", [])
    assert "  try: " in run.err


def test_a_closed_loop_may_be_named(yard: Yard, fake: FakeYard) -> None:
    assert yard("profile", "d", "--arrival", "closed", "--closed", "2").code == 0
    assert fake.calls == [("profile", ("d", ProfileRequest(arrival=Arrival.CLOSED, closed=(2,))))]


def test_more_threads_than_cores_are_warned_of_but_taken(yard: Yard, fake: FakeYard) -> None:
    run = yard("deploy", "digits", "--threads", "9999")
    assert run.code == 0
    assert run.err.startswith("warning: 9999 threads on ")
    assert fake.calls[0][1][1].threads == 9999
    assert yard("deploy", "digits", "--threads", "1").err == ""


def test_profile_and_deploy_defaults_are_the_requests_own(yard: Yard, fake: FakeYard) -> None:
    yard("profile", "digits")
    yard("deploy", "digits")
    yard("publish", "digits")
    assert fake.calls == [
        ("profile", ("digits", ProfileRequest())),
        ("deploy", ("digits", DeployRequest())),
        ("publish", ("digits", PublishRequest(), False)),
    ]


@pytest.mark.parametrize("text", ["0", "1,x", "1,,2", "-1"])
def test_a_list_of_counts_must_be_one(text: str, yard: Yard) -> None:
    assert yard("profile", "digits", "--batch", text).code == 2


def test_deploy_passes_everything_on(yard: Yard, fake: FakeYard, tmp_path: Path) -> None:
    argv = (
        "--name d --target onnx:fp16 --runtime onnxruntime --threads 2 --replicas 3 --max-batch 8 --max-delay-us 100 "
        "--memory 1.5GiB --cpus 0.5 --port 8000 --grpc-port 8001 --host 0.0.0.0 --replace --serving serving.yaml "
        "--canary digits:4=0.1 --canary digits@new=.25 --shadow digits:5 --label next=digits:4"
    )
    (tmp_path / "serving.yaml").write_text("model: {cache: 1MiB}")
    run = yard("deploy", "digits@production", *argv.split())
    assert run.code == 0
    assert "yard services stop digits" in run.out
    request = DeployRequest(
        name="d",
        target=Target("onnx", "fp16"),
        runtime="onnxruntime",
        threads=2,
        replicas=3,
        batching=Batching(8, 100),
        memory_limit_bytes=3 * 2**29,
        cpu_limit=0.5,
        host="0.0.0.0",
        http_port=8000,
        grpc_port=8001,
        replace=True,
        serving=Serving(ModelSettings(cache_bytes=2**20), file=str(tmp_path / "serving.yaml")),
        canary={"digits:4": 0.1, "digits@new": 0.25},
        shadow="digits:5",
        labels={"next": "digits:4"},
    )
    assert fake.calls == [("deploy", ("digits@production", request))]


def test_a_replacement_warns_of_what_it_ends(yard: Yard, fake: FakeYard, tmp_path: Path) -> None:
    (status,) = (s for s in fake.statuses if s.service.name == "digits")
    running = replace(
        status.service, others=(Release(4, status.service.configuration),), serving=Serving(file="/etc/s.yaml")
    )
    fake.statuses[:] = [replace(status, service=running)]
    told = yard("deploy", "digits:5", "--replace").err
    assert "warning: without --serving the settings of /etc/s.yaml end" in told
    assert "digits:4 will be served no more" in told
    (tmp_path / "serving.yaml").write_text("model: {cache: 1MiB}")
    argv = ("--serving", "serving.yaml", "--shadow", "digits:4")
    assert yard("deploy", "digits:5", "--replace", *argv).err == ""
    assert yard("deploy", "other", "--replace").err == ""


def test_what_is_wrong_in_a_serving_file_is_told_before_anything_starts(
    yard: Yard, fake: FakeYard, tmp_path: Path
) -> None:
    (tmp_path / "serving.yaml").write_text("model: {instancs: 2}")
    run = yard("deploy", "digits", "--serving", "serving.yaml")
    assert (run.code, fake.calls) == (2, [])
    assert "serving.yaml:1: model.instancs: unknown key; did you mean 'instances'?" in run.err
    assert yard("deploy", "digits", "--serving", "none.yaml").code == 3


@pytest.mark.parametrize(
    ("text", "count"), [("500MB", 5 * 10**8), ("2g", 2 * 10**9), ("1KiB", 1024), ("77", 77), ("7 B", 7)]
)
def test_sizes(text: str, count: int, yard: Yard, fake: FakeYard) -> None:
    assert yard("deploy", "digits", "--memory", text).code == 0
    assert fake.calls[0][1][1].memory_limit_bytes == count


@pytest.mark.parametrize("text", ["0", "-1", "nan", "half", "5000"])
def test_no_numbers_of_cores(text: str, yard: Yard, fake: FakeYard) -> None:
    assert (yard("deploy", "digits", "--cpus", text).code, fake.calls) == (2, [])


def test_more_threads_than_the_cap_has_cores_are_warned_of(yard: Yard) -> None:
    assert "2 threads on 0.5 cores' time" in yard("deploy", "digits", "--cpus", "0.5", "--threads", "2").err
    assert "cores' time" not in yard("deploy", "digits", "--cpus", "0.5", "--threads", "1").err


@pytest.mark.parametrize("text", ["lots", "0", "2 parsecs", "GiB"])
def test_no_sizes(text: str, yard: Yard) -> None:
    assert yard("deploy", "digits", "--memory", text).code == 2


def test_convert_is_4_when_a_named_target_was_rejected_1_when_it_failed(yard: Yard) -> None:
    proven, rejected, failed = CONVERSIONS
    for argv, found, code in (
        (("--to", "onnx,onnx:int8-static"), (proven, rejected), 4),
        (("--to", "openvino:bf16"), (failed,), 1),
        (("--to", "auto"), (proven, rejected, failed), 0),
        ((), (rejected, failed), 4),
        (("--to", "onnx"), (conversion("onnx", Outcome.FAILED), proven), 0),
    ):
        fake = FakeYard()
        fake.conversions = found
        assert yard("convert", "digits", *argv, over=fake).code == code, argv


def test_doctor_is_5_only_when_something_required_is_missing(yard: Yard, fake: FakeYard) -> None:
    run = yard("doctor")
    assert run.code == 0
    assert "try: pip install 'modelyard[torch]'" in run.out
    fake.findings = [Finding("data directory", False, "not writable", "chmod", required=True)]
    assert yard("doctor").code == 5


def test_search_builds_the_query_and_names_the_next_page(yard: Yard, fake: FakeYard) -> None:
    argv = "--name dig* --task t --framework pytorch --format onnx --tag a --tag b --text cnn --limit 5 --cursor c"
    run = yard("models", "search", "--metric", "accuracy>=0.9", *argv.split())
    query = VersionQuery(
        "dig*", "t", "pytorch", "onnx", ("a", "b"), (MetricFilter("accuracy", ">=", 0.9),), "cnn", 5, "c"
    )
    assert fake.calls == [("search", query)]
    assert "more: add --cursor more-1" in run.err


def test_update_adds_and_removes_tags_and_leaves_the_rest(yard: Yard, fake: FakeYard, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# Card")
    argv = "--add-tag new --remove-tag small --license MIT --author me --card card.md"
    assert yard("models", "update", "digits:1", *argv.split()).code == 0
    changes = DescriptionChanges(license="MIT", authors=("me",), tags=("demo", "new"), card="# Card")
    assert fake.calls == [("update", changes)]


def test_update_refuses_to_remove_a_tag_that_is_not_there(yard: Yard, fake: FakeYard) -> None:
    run = yard("models", "update", "digits:1", "--remove-tag", "nope")
    assert (run.code, fake.calls) == (3, [])
    assert run.err.splitlines() == ["error: digits:1 has no tag 'nope'", "  try: it has demo, small"]


def test_update_of_nothing_is_refused(yard: Yard) -> None:
    assert yard("models", "update", "digits:1").code == 2
    assert yard("models", "update", "digits:1", "--card", "none.md").code == 3


def test_rm_without_a_terminal_needs_yes(yard: Yard, fake: FakeYard) -> None:
    run = yard("models", "rm", "digits:1")
    assert run.code == 2
    assert "--yes" in run.err
    assert fake.calls == []
    assert yard("models", "rm", "digits:1", "--yes", "--force").code == 0
    assert fake.calls == [("delete", ("digits:1", True, False))]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 130), ("", 130)])
def test_rm_asks_on_a_terminal(
    answer: str, code: int, yard: Yard, fake: FakeYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    monkeypatch.setattr("sys.stderr", asked)
    assert yard("models", "rm", "digits:1").code == code
    assert "Delete digits:1 with 2 artifacts and 0 measurements?" in asked.getvalue()
    assert fake.calls[1:] == ([("delete", ("digits:1", False, False))] if code == 0 else [])


def test_rm_dry_run_deletes_nothing_and_a_bare_name_is_refused(yard: Yard, fake: FakeYard) -> None:
    assert "would free" in yard("models", "rm", "digits:1", "--dry-run").out
    assert fake.calls == [("delete", ("digits:1", False, True))]
    assert yard("models", "rm", "digits", "--yes").code == 2


def test_alias_sets_shows_removes(yard: Yard, fake: FakeYard) -> None:
    assert yard("models", "alias", "digits", "production", "3").code == 0
    assert yard("models", "alias", "digits", "production", "--remove").code == 0
    assert fake.calls == [("set", ("digits", "production", 3)), ("remove", ("digits", "production", None))]
    assert yard("models", "alias", "digits", "production", "--json").data == {"production": 1}
    assert yard("models", "alias", "digits", "staging").code == 3
    assert yard("models", "alias", "digits", "production", "3", "--remove").code == 2
    assert yard("models", "alias", "digits", "--history").code == 2


def test_stop_takes_names_or_all_but_not_neither(yard: Yard, fake: FakeYard) -> None:
    assert yard("services", "stop").code == 2
    assert yard("services", "stop", "a", "--all").code == 2
    run = yard("services", "stop", "a", "b")
    assert run.code == 0
    assert yard("services", "stop", "--all").code == 0
    assert fake.calls == [("stop", "a"), ("stop", "b"), ("stop", "digits")]


def test_logs_are_lines_as_they_are(yard: Yard, fake: FakeYard) -> None:
    run = yard("services", "logs", "digits", "--tail", "5", "--replica", "1", "-f")
    assert run.out == "first [bold]line\nsecond\n"
    assert fake.calls == [("logs", ("digits", 1, True, 5))]
    lines = yard("services", "logs", "digits", "--json").out.splitlines()
    assert [json.loads(line)["data"] for line in lines] == ["first [bold]line\n", "second"]


def test_show_tells_the_logs_of_what_was_not_proven(yard: Yard) -> None:
    run = yard("models", "show", "digits:1")
    assert "line one" not in run.out
    assert "onnx:int8-static rejected: metric-loss" in run.out
    run = yard("models", "show", "digits:1", "--logs")
    assert "Log of openvino:bf16 by dynamo" in run.out
    assert "line [two]" in run.out
    assert "Log of onnx by" not in run.out
