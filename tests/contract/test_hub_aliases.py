"""Aliases: moved, rolled back, never forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from modelyard.domain.errors import Conflict, InvalidInput, NotFound
from tests.contract.hub_content import Place, ref


@pytest.fixture
def three(database_place: Place) -> Place:
    """Versions 1, 2 and 3 of `digits`; `production` went from 1 over 2 to 3."""
    for content in (b"one", b"two", b"three"):
        number = database_place.register(content=content).number
        database_place.hub.aliases.set("digits", "production", number)
    return database_place


def _moves(place: Place) -> list[tuple[str, int | None, int | None]]:
    return [(e.action, e.previous, e.version) for e in place.hub.aliases.history("digits", "production")]


SETS = [("set", None, 1), ("set", 1, 2), ("set", 2, 3)]


def test_an_alias_names_one_version_and_keeps_its_history(three: Place) -> None:
    assert three.hub.aliases.list("digits") == {"production": 3}
    assert three.hub.versions.get(ref("digits@production")).number == 3
    assert _moves(three) == SETS


def test_pointing_an_alias_where_it_is_adds_no_history(three: Place) -> None:
    three.hub.aliases.set("digits", "production", 3)
    assert _moves(three) == SETS


def test_rollback_goes_back_one_target_at_a_time(three: Place) -> None:
    back = [three.hub.aliases.rollback("digits", "production").version for _ in range(2)]
    assert back == [2, 1]
    assert three.hub.versions.get(ref("digits@production")).number == 1
    assert _moves(three) == [*SETS, ("rolled-back", 3, 2), ("rolled-back", 2, 1)]
    with pytest.raises(Conflict, match="no earlier version"):
        three.hub.aliases.rollback("digits", "production")


def test_rollback_after_a_new_target_goes_to_the_one_before_it(three: Place) -> None:
    three.hub.aliases.rollback("digits", "production")
    three.hub.aliases.set("digits", "production", 1)
    assert three.hub.aliases.rollback("digits", "production").version == 2


def test_rollback_passes_over_deleted_targets(three: Place) -> None:
    three.hub.versions.delete(ref("digits:2"))
    assert three.hub.aliases.rollback("digits", "production").version == 1


def test_a_removed_alias_keeps_its_history_and_comes_back_by_rollback(three: Place) -> None:
    three.hub.aliases.remove("digits", "production")
    assert three.hub.aliases.list("digits") == {}
    with pytest.raises(NotFound):
        three.hub.versions.get(ref("digits@production"))
    assert _moves(three) == [*SETS, ("removed", 3, None)]
    assert three.hub.aliases.rollback("digits", "production").version == 3


def test_replacements_show_which_version_replaced_which(three: Place) -> None:
    found = three.hub.versions.lineage(ref("digits:2")).replacements
    assert [(r.alias, r.number, r.replaced) for r in found] == [("production", 2, 1), ("production", 3, 2)]


def test_concurrent_moves_leave_a_history_in_which_each_follows_the_last(three: Place) -> None:
    def move(i: int) -> None:
        with three.reopen() as hub:
            hub.aliases.set("digits", "production", 1 + i % 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(move, range(12)))
    moves = _moves(three)
    assert [previous for _, previous, _ in moves[1:]] == [version for _, _, version in moves[:-1]]
    assert three.hub.aliases.list("digits") == {"production": moves[-1][2]}


@pytest.mark.parametrize("call", ["remove", "rollback", "history"])
def test_an_unknown_alias_is_not_found(three: Place, call: str) -> None:
    with pytest.raises(NotFound) as caught:
        getattr(three.hub.aliases, call)("digits", "staging")
    assert "production" in caught.value.hint


def test_an_alias_needs_a_name_and_an_existing_version(three: Place) -> None:
    with pytest.raises(NotFound):
        three.hub.aliases.set("digits", "production", 9)
    with pytest.raises(NotFound):
        three.hub.aliases.list("unknown")
    with pytest.raises(InvalidInput):
        three.hub.aliases.set("digits", "42", 1)
    assert _moves(three) == SETS
