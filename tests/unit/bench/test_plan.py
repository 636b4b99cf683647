"""Which cells a run of the serving benchmark has."""

from __future__ import annotations

from bench.serving.models import MODELS
from bench.serving.plan import INPROCESS, cells
from bench.serving.systems import SYSTEMS
from bench.serving.systems.ports import BINARY, GRPC, JSON

EVERY = (JSON, BINARY, GRPC)


def test_cells_of_a_group_differ_in_the_system_and_the_batching_only() -> None:
    for model in MODELS.values():
        for group in cells(tuple(SYSTEMS), model, None, EVERY):
            assert len({(cell.connections, cell.line.protocol) for cell in group}) == 1
            assert len(set(group)) == len(group)


def test_no_cell_is_measured_twice_a_round() -> None:
    for model in MODELS.values():
        every = [cell for group in cells(tuple(SYSTEMS), model, None, EVERY) for cell in group]
        assert len(set(every)) == len(every)


def test_every_system_is_measured_on_every_model_it_serves() -> None:
    for model in MODELS.values():
        measured = {cell.line.system for group in cells(tuple(SYSTEMS), model, None, EVERY) for cell in group}
        wanted = {name for name, system in SYSTEMS.items() if not system.models or model.name in system.models}
        assert measured == wanted | {INPROCESS}


def test_batching_off_is_measured_at_the_ends_of_given_connections() -> None:
    found = {
        cell.connections
        for group in cells(("litserve",), MODELS["mlp"], (1, 8, 64), (JSON,))
        for cell in group
        if cell.line.batching is False
    }
    assert found == {1, 64}


def test_ragged_requests_are_batched_only_by_systems_that_do_so_themselves() -> None:
    batching = {
        cell.line.system
        for group in cells(tuple(SYSTEMS), MODELS["encoder"], None, EVERY)
        for cell in group
        if cell.line.batching
    }
    assert batching == {"modelyard", "modelyard-2", "triton"}


def test_large_tensors_go_as_json_only_where_there_is_nothing_else() -> None:
    asked = {
        cell.line.system for group in cells(tuple(SYSTEMS), MODELS["resnet50"], None, (JSON,)) for cell in group
    } - {INPROCESS}
    assert asked
    assert {name for name in asked if len(SYSTEMS[name].protocols) > 1} == set()
