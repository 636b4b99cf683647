"""The report of the serving benchmark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.serving.plan import Line
from bench.serving.report import BEGIN, END, markdown, write
from bench.serving.results import Side, Turns
from bench.serving.systems import SYSTEMS
from bench.serving.systems.ports import BINARY, JSON
from tests.unit.bench.results import add, empty, timing

PAGE = Path(__file__).parents[3] / "docs" / "serving-benchmarks.md"


def row(text: str, *parts: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if all(part in line for part in parts)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell_shows_medians() -> None:
    results = empty()
    rounds = [timing(0, 100, p50_ms=3), timing(1, 1500, p50_ms=0.5), timing(2, 2000, p50_ms=1)]
    add(results, "mlp", Line("fastapi", None, JSON), 8, rounds)
    assert row(markdown(results), "| FastAPI", "REST JSON")[3] == "1,500 (1.00, 2.00)"


def test_failed_requests_and_a_busy_client_are_marked() -> None:
    results = empty()
    add(results, "mlp", Line("fastapi", None, JSON), 8, [timing(0, 100, failed=7, client_cores=0.95)])
    cell = row(markdown(results), "| FastAPI", "REST JSON")[3]
    assert "**7 of 1000 failed**" in cell
    assert cell.endswith("†")
    assert "† the client used more than 0.9 of a core" in markdown(results)


def test_turns_stand_with_the_stages_of_our_side() -> None:
    results = empty()
    found = results.turns_of("mlp", Side("modelyard", True), Side("modelyard", False), JSON)
    stages = {"receive": 1.0, "parse": 2.0, "queue": 3.0, "batch_wait": 4.0, "infer": 10.0, "encode": 5.0, "send": 6.0}
    found.rounds += [Turns(0, 0.01, 0.15, 0.14, stages), Turns(1, 0.02, 0.09, 0.07, stages)]
    cells = row(markdown(results), "| mlp, REST JSON")
    assert cells[1] == "modelyard without batching"
    assert cells[2:] == ["120", "105", "15.0", "1.0", "2.0", "7.0", "10.0", "5.0", "6.0", "89.0"]


def test_what_was_not_measured_stands_there_with_its_reason_once() -> None:
    results = empty()
    results.server("mlp", "torchserve", True).reason = "there is no `java` here"
    results.server("cnn", "torchserve", False).reason = "there is no `java` here"
    add(results, "mlp", Line("mlserver", True, JSON), 1, [timing(0, 100)])
    add(results, "mlp", Line("mlserver", True, BINARY), 1, [])
    results.cells[-1].reason = "HTTP 500: Internal Server Error"
    text = markdown(results)
    assert "- TorchServe (mlp with batching, cnn without batching): there is no `java` here" in text
    assert "- MLServer (mlp over REST binary): HTTP 500: Internal Server Error" in text


def test_every_table_has_rows_of_one_width() -> None:
    results = empty()
    results.server("mlp", "fastapi", None).cold_starts_s.append(1.5)
    for connections in (1, 32):
        add(results, "mlp", Line("fastapi", None, JSON), connections, [timing(0, 100)])
    add(results, "mlp", Line("bentoml", False, JSON), 32, [timing(0, 100)])
    width = 0
    for line in markdown(results).splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert bars in (0, width) or width == 0, line
        width = bars


def test_writing_replaces_what_stands_between_the_markers_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")
    write(page, "new\n")
    write(page, "newer\n")
    assert page.read_text() == f"before\n\n{BEGIN}\n\nnewer\n\n{END}\n\nafter\n"


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit):
        write(page, "new\n")
    assert page.read_text() == "nothing here\n"


def test_the_page_of_the_docs_has_the_markers_and_names_every_system() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    names = {re.split(r",| model|\*\*", s.title.strip("*"))[0] for s in SYSTEMS.values() if not s.limit}
    assert {name for name in names if name not in text} == set()
