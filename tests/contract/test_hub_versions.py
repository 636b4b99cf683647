"""Versions of a hub: registered once, numbered for ever, found, described."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.versions import Description, SourceSpec
from modelyard.hub import DescriptionChanges, Hub
from tests.contract.hub_content import Place, definition, ref

SOURCE = ["model.pt2", "net/model.py"]


def test_a_registered_version_comes_back_whole(place: Place) -> None:
    """Also to another process that opens the hub later."""
    wanted = definition(slo=Slo(20, 200), convert=("onnx", "openvino:bf16"))
    about = Description("a CNN", "MIT", ("Ada",), ("https://example.org",), ("demo", "vision"), "# Card\nnaïve – ok")
    made = place.hub.versions.register(wanted, about, place.files(), SOURCE)
    assert made.created
    with place.reopen() as other:
        found = other.versions.get(ref("digits:1"))
        files = {p.relative_to(d).as_posix(): p.read_bytes() for d in [other.versions.checkout(found)] for p in _all(d)}
    assert found == made.version
    assert (found.model, found.number, found.definition, found.description) == ("digits", 1, wanted, about)
    assert files == {"model.pt2": b"weights", "net/model.py": b"def build(): ...", "holdout.npz": b"dataset"}


def test_identical_content_is_told_and_not_duplicated(place: Place) -> None:
    first = place.hub.versions.register(definition(), Description(), place.files(), SOURCE)
    reordered = definition(metrics={"f1": 0.9, "accuracy": 0.98})
    again = place.hub.versions.register(reordered, Description("another text"), place.files(), SOURCE[::-1])
    assert (again.created, again.version) == (False, first.version)
    assert [v.number for v in place.hub.versions.list("digits")] == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"accuracy": 0.97}},
        {"task": "other"},
        {"source": SourceSpec("pytorch-exported", "model.pt2", {"factory": "net.model:other"}, trusted=True)},
    ],
)
def test_another_definition_is_another_version(place: Place, change: dict[str, object]) -> None:
    assert [place.register().number, place.register(**change).number] == [1, 2]


def test_other_bytes_are_another_version(place: Place) -> None:
    assert [place.register(content=b"one").number, place.register(content=b"two").number] == [1, 2]


def test_identical_names_the_version_without_writing(place: Place) -> None:
    assert place.hub.versions.identical(definition(), place.files(), SOURCE) is None
    version = place.register()
    assert place.hub.versions.identical(definition(), place.files(), SOURCE) == version
    assert place.hub.gc(dry_run=True).blobs == 0


def test_numbers_are_never_reused(place: Place) -> None:
    place.register(content=b"one")
    place.register(content=b"two")
    place.hub.versions.delete(ref("digits:2"))
    assert place.register(content=b"three").number == 3
    for number in (1, 3):
        place.hub.versions.delete(ref(f"digits:{number}"))
    assert place.register(content=b"one").number == 4


def test_concurrent_writers_get_distinct_numbers_without_gaps(every_place: Place) -> None:
    place = every_place
    for i in range(12):
        place.files(b"content %d" % (i % 8))

    def write(i: int) -> tuple[int, bool]:
        with Hub.open(place.database_url, place.blobs_url, place.directory / f"c{i}", place.clock) as hub:
            made = hub.versions.register(definition(), Description(), place.files(b"content %d" % (i % 8)), SOURCE)
            return made.version.number, made.created

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(write, range(12)))
    assert sorted({number for number, _ in made}) == list(range(1, 9))
    assert sum(created for _, created in made) == 8


def test_references_name_the_latest_a_number_or_an_alias(place: Place) -> None:
    place.register(content=b"one")
    second = place.register(content=b"two")
    place.hub.aliases.set("digits", "production", 1)
    assert place.hub.versions.get(ref("digits")) == second
    assert place.hub.versions.get(ref("digits:1")).aliases == ("production",)
    assert place.hub.versions.get(ref("digits@production")).number == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("digit", "did you mean digits"),
        ("digits:7", "yard models show digits"),
        ("digits@x", "yard models show digits"),
    ],
)
def test_an_unknown_reference_says_what_to_try(place: Place, text: str, words: str) -> None:
    place.register()
    with pytest.raises(NotFound) as caught:
        place.hub.versions.get(ref(text))
    assert words in caught.value.hint


def test_models_are_summed_up(place: Place) -> None:
    place.register("zebra", b"z", task="a")
    place.register("digits", b"one")
    place.register("digits", b"two", task="b", framework="jax")
    place.hub.aliases.set("digits", "production", 1)
    found = place.hub.versions.models()
    assert [(m.name, m.versions, m.latest, m.task, m.framework) for m in found] == [
        ("digits", 2, 2, "b", "jax"),
        ("zebra", 1, 1, "a", "pytorch"),
    ]
    assert [dict(m.aliases) for m in found] == [{"production": 1}, {}]
    place.hub.versions.delete(ref("zebra:1"))
    assert [m.name for m in place.hub.versions.models()] == ["digits"]


def test_update_changes_only_what_is_given(place: Place) -> None:
    before = place.register(description=Description("old", "MIT", tags=("a", "b")))
    after = place.hub.versions.update(ref("digits:1"), DescriptionChanges(description="new", tags=("c",)))
    assert after.description == Description("new", "MIT", tags=("c",))
    assert (after.digest, after.definition, after.number) == (before.digest, before.definition, before.number)
    assert place.hub.versions.get(ref("digits:1")) == after


def test_a_new_license_is_an_spdx_expression(database_place: Place) -> None:
    database_place.register()
    update = database_place.hub.versions.update
    assert update(ref("digits:1"), DescriptionChanges(license="apache-2.0")).description.license == "Apache-2.0"
    with pytest.raises(InvalidInput, match="SPDX"):
        update(ref("digits:1"), DescriptionChanges(license="free for all"))
    assert update(ref("digits:1"), DescriptionChanges(license="")).description.license == ""


def test_the_path_of_a_missing_file_is_named_and_nothing_is_kept(place: Place) -> None:
    files = place.files() | {"net/model.py": Path("/nowhere/net.py")}
    with pytest.raises(InvalidInput, match=r"/nowhere/net\.py"):
        place.hub.versions.register(definition(), Description(), files, SOURCE)
    assert place.hub.versions.models() == []
    assert place.hub.gc(dry_run=True).blobs == 0


def test_a_path_that_leaves_the_version_is_refused(place: Place) -> None:
    files = place.files() | {"../up.bin": place.file("x", b"x")}
    with pytest.raises(InvalidInput, match="cannot be a path"):
        place.hub.versions.register(definition(), Description(), files, SOURCE)


@pytest.mark.parametrize(
    ("source_files", "words"), [(["net/model.py"], "entry"), (["model.pt2", "absent"], "not among the files")]
)
def test_source_files_must_be_given_and_hold_the_entry(place: Place, source_files: list[str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        place.hub.versions.register(definition(), Description(), place.files(), source_files)


def _all(directory: Path) -> list[Path]:
    return [p for p in directory.rglob("*") if p.is_file()]
