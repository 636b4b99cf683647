"""The documentation in lockstep with the code: what exists is documented, what is documented exists, links resolve."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from enum import StrEnum
from pathlib import Path

import pytest

import modelyard
from modelyard.cli import exits, reference
from modelyard.config import Settings
from modelyard.convert.failures import HINTS
from modelyard.convert.tolerances import DEFAULTS
from modelyard.domain import errors
from modelyard.domain.artifacts import FailureClass, Outcome, Precision, RejectionReason
from modelyard.domain.errors import ModelyardError
from modelyard.domain.measurement import Validity
from modelyard.domain.tensors import Datatype
from modelyard.domain.workload import Arrival, Scenario, TraceLayout
from modelyard.manifest.schema import Manifest, SourceModel
from modelyard.manifest.sources import FORMATS
from modelyard.manifest.step_options import AFTER, BEFORE
from modelyard.profile.early_stopping import queries_needed
from modelyard.profile.samples import Samples
from modelyard.profile.statistics import REQUESTS_FOR_P99, REQUESTS_FOR_P999
from modelyard.profile.verdicts import Rules
from modelyard.runtimes.tabular import FEATURES, LABEL, PROBABILITIES, SCORES, VALUE
from modelyard.serving.observe.metrics import METRICS
from modelyard.serving.observe.stages import STAGES
from modelyard.workflow.max_rate import MaxRateRequest
from modelyard.workflow.publishing import EFFORTS
from modelyard.workflow.values import DeployRequest, ProfileRequest, PublishRequest, TuneRequest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(text: str) -> set[str]:
    """The words in the first cells of all tables of a page."""
    cells = (line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def test_the_command_reference_is_that_of_the_commands() -> None:
    written = page("cli.md")
    assert reference.rewrite(written) == written, "run: make docs"


def test_every_command_and_option_has_help() -> None:
    for name, command in reference.walk():
        assert command.help, name
        for param in command.params:
            assert param.help, f"yard {name} {param.name}"


def commands() -> Iterator[tuple[Path, str]]:
    """Every `yard ...` in the pages: indented lines and code spans."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8").partition("## Common options")[0]
        for found in re.findall(r"^ {4,}(?:\.venv/bin/)?(yard .+)$|`(?:\.venv/bin/)?(yard [^`]+)`", text, re.MULTILINE):
            yield path, "".join(found)


def test_commands_in_the_pages_exist() -> None:
    known = {name: {o for p in command.params for o in p.opts} for name, command in reference.walk()}
    groups = {name.split()[0] for name in known if " " in name}
    common = {"--json", "--quiet", "-q", "--home", "--debug", "--help", "--install-completion"}
    checked = 0
    for path, line in commands():
        for part in re.split(r"(?:\s{2,}|&& )(?=yard )", line.partition("  #")[0]):
            words = part.split()[1:]
            if not re.match(r"[a-z]", words[0]):  # `yard RESOURCE ACTION`, `yard --help`
                continue
            actions = words[1].split("|") if words[0] in groups else [None]
            for action in actions:
                name = f"{words[0]} {action}" if action else words[0]
                assert name in known, f"{path.name}: {part}"
                options = {o for w in words for o in re.findall(r"^\[?(--?[a-z][a-z-]*)", w)}
                assert options <= known[name] | common, f"{path.name}: {part}"
                checked += 1
    assert checked > 50


def test_every_exit_code_is_documented() -> None:
    written = page("cli.md")
    for code in exits.MEANING:
        assert f"| {code} | " in written


def test_every_setting_is_documented_and_no_other() -> None:
    variables = {f"MODELYARD_{field.name.upper()}" for field in fields(Settings)}
    source = (ROOT / "src/modelyard/config.py").read_text()
    assert {name for name in variables if name not in source} == set(), "a setting without its variable"
    assert {name for name in rows(page("settings.md")) if name.startswith("MODELYARD_")} == variables | {
        "MODELYARD_DEBUG"
    }


def test_defaults_of_settings_are_those_documented() -> None:
    settings = Settings.read({}, home=Path("/nowhere"))
    table = {
        line.split("|")[1].strip(" `"): line.split("|")[2] for line in page("settings.md").splitlines() if "|" in line
    }
    for name in ("price_per_core_hour", "price_currency", "price_source", "price_as_of"):
        assert str(getattr(settings, name)) in table[f"MODELYARD_{name.upper()}"]
    assert f"`{settings.convert_timeout_s:g}`" in table["MODELYARD_CONVERT_TIMEOUT_S"]
    assert f"`{settings.convert_memory_bytes}`" in table["MODELYARD_CONVERT_MEMORY_BYTES"]


@pytest.mark.parametrize("kind", [FailureClass, RejectionReason, Validity])
def test_every_named_outcome_is_documented(kind: type[StrEnum]) -> None:
    assert {str(member) for member in kind} - rows(page("concepts.md")) == set()


@pytest.mark.parametrize("kind", [Arrival, Scenario, TraceLayout])
def test_every_load_is_documented(kind: type[StrEnum]) -> None:
    assert {str(member) for member in kind} - rows(page("profiling.md")) == set()


def test_early_stopping_is_as_documented() -> None:
    lines = [line for line in page("profiling.md").splitlines() if line.startswith("|")]
    for words, confidence in (("queries needed at 99 %", 0.99), ("at 95 %", 0.95)):
        (line,) = [line for line in lines if line.startswith(f"| {words} |")]
        cells = [int(cell) for cell in line.split("|")[2:-1]]
        assert cells == [queries_needed(over, 0.99, confidence) for over in (0, 1, 2, 5, 10)]


def test_every_outcome_is_named() -> None:
    text = page("concepts.md")
    assert all(f"`{outcome}`" in text for outcome in Outcome)


def test_the_tolerances_are_those_of_the_code() -> None:
    lines = [line for line in page("concepts.md").splitlines() if line.count("|") == 8]
    for precision in Precision:
        tolerance = DEFAULTS[precision]
        (line,) = [
            x for x in lines if re.search(rf"\b{precision}\b", x.split("|")[1]) and "trees" not in x and "tree" not in x
        ]
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert [float(cell) for cell in cells[3:]] == [
            tolerance.min_cosine,
            tolerance.min_decision_agreement,
            tolerance.max_metric_loss,
        ]
        if tolerance.mismatch_fraction < 1:
            assert [float(cell) for cell in cells[:2]] == [tolerance.max_abs, tolerance.max_rel]


def test_every_array_of_the_raw_samples_is_documented() -> None:
    assert {field.name for field in fields(Samples)} <= rows(page("concepts.md"))


def test_every_manifest_key_step_and_format_is_documented() -> None:
    text = page("manifest.md")
    keys = {field.alias or name for name, field in Manifest.model_fields.items()}
    assert (keys | set(SourceModel.model_fields) | set(BEFORE) | set(AFTER)) - rows(text) == set()
    assert {name for name in FORMATS if f"`{name}`" not in text} == set()
    assert {name for name in Datatype if name not in text} == set()


def test_every_step_option_is_documented() -> None:
    lines = [line for line in page("manifest.md").splitlines() if line.startswith("| `")]
    for kind, model in {**BEFORE, **AFTER}.items():
        options = {field.alias or name for name, field in model.model_fields.items()} - {"kind", "tensor"}
        described = " ".join(line for line in lines if line.startswith(f"| `{kind}` |"))
        assert {o for o in options if f"`{o}`" not in described} == set(), kind


@pytest.mark.parametrize("name", ["manifest.md", "python.md"])
def test_the_names_of_tensors_are_those_of_the_code(name: str) -> None:
    text = page(name)
    assert {n for n in (LABEL, PROBABILITIES, SCORES, VALUE, FEATURES) if f"`{n}`" not in text} == set()


def test_every_error_is_documented() -> None:
    leaves = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, ModelyardError)}
    assert leaves - {"ModelyardError"} - rows(page("python.md")) == set()


def test_every_public_method_of_the_facade_is_documented() -> None:
    from modelyard.bootstrap import Yard

    methods = {name for name in vars(Yard) if not name.startswith("_")}
    text = page("python.md")
    assert {name for name in methods if not re.search(rf"`(Yard\.)?{name}\(", text)} == set()


def test_every_public_name_of_the_package_is_documented() -> None:
    named = {name.partition("(")[0] for name in rows(page("python.md"))}
    assert set(modelyard.__all__) - named == set()


@pytest.mark.parametrize("request_type", [DeployRequest, MaxRateRequest, ProfileRequest, PublishRequest, TuneRequest])
def test_every_option_of_a_request_is_documented_and_no_other(request_type: type) -> None:
    tables = page("python.md").split(f"| `{request_type.__name__}` | default |")
    assert len(tables) == 2
    assert rows(tables[1].partition("\n\n")[0]) == {field.name for field in fields(request_type)}


def test_every_metric_of_the_server_is_documented_and_no_other() -> None:
    text = page("metrics.md")
    assert {name for name in rows(text) if name.startswith("modelyard_")} == set(METRICS)
    types = {
        name: line.split("|")[2].strip() for line in text.splitlines() for name in METRICS if f"| `{name}` |" in line
    }
    assert types == {name: kind for name, (kind, _) in METRICS.items()}
    assert {stage for stage in STAGES if f"`{stage}`" not in text} == set()


def test_the_hint_of_every_failure_class_is_that_of_the_code() -> None:
    lines = page("concepts.md").splitlines()
    for failure, hint in HINTS.items():
        assert any(line.startswith(f"| `{failure}` |") and line.endswith(f"| {hint} |") for line in lines), failure


def test_the_numbers_of_every_effort_are_those_of_the_code() -> None:
    lines = page("concepts.md").splitlines()
    for name, e in EFFORTS.items():
        closed = f"{e.capacity_blocks} x {e.capacity_s:g}"
        assert f"| `{name}` | {e.contenders} | {closed} | 5 x {e.p99_requests} | 5 x {e.confirm_requests} |" in lines


def test_the_numbers_of_the_verdicts_are_those_of_the_code() -> None:
    text, rules = page("concepts.md"), Rules()
    for said in (
        f"{rules.max_send_lag_ms:g} ms or more, and {rules.max_send_lag_of_p50:.0%} of p50",
        f"off by more than {rules.max_rate_error:.0%}",
        f"used {rules.max_client_cores:g} of a core",
        f"off by more than {rules.max_little_error:.0%}",
        f"fewer than {rules.full_blocks} blocks, or a block of fewer than {rules.full_requests} requests",
        f"fewer than {rules.min_completed_ratio:.0%} completed",
        f"more than {rules.canary_tolerance - 1:.0%} slower",
        f"fewer than {REQUESTS_FOR_P99} requests",
        f"fewer than {REQUESTS_FOR_P999}",
    ):
        assert said.replace("%", " %") in text, said


def links() -> Iterator[tuple[Path, str]]:
    for path in PAGES:
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            if "://" not in target:
                yield path, target


@pytest.mark.parametrize(("source", "target"), [pytest.param(s, t, id=f"{s.name}:{t}") for s, t in links()])
def test_links_resolve(source: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    path = (source.parent / name) if name else source
    assert path.is_file()
    if anchor:
        titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_page_has_one_title_and_no_half_table(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    width = 0
    for line in lines:
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert bars in (0, width) or width == 0, line
        width = bars


def test_every_decision_is_listed() -> None:
    listed = page("adr/README.md")
    pages = {p.name for p in (ROOT / "docs/adr").glob("[0-9]*.md")}
    assert {name for name in pages if f"({name})" not in listed} == set()


def test_constraints_have_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_every_benchmark_is_documented_and_no_other() -> None:
    text = page("benchmarks.md")
    packages = {path.parent.name for path in (ROOT / "bench").glob("*/__main__.py")}
    written = set(re.findall(r"python bench/(\S+)\.py", text)) | set(re.findall(r"python -m bench\.(\w+)", text))
    commands = {path.stem for path in (ROOT / "bench").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert written - packages == commands
