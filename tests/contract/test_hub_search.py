"""Search: every filter on its own, all together, page by page."""

from __future__ import annotations

import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.versions import Description
from modelyard.hub import DescriptionChanges, MetricFilter, VersionQuery
from tests.contract.hub_content import Place, ref


@pytest.fixture
def filled(database_place: Place) -> Place:
    """Three models, one of them converted to ONNX twice."""
    database_place.register(
        "digits-cnn", b"1", Description("Handwritten digits", tags=("vision", "demo"), card="A café model.")
    )
    resnet = database_place.register(
        "resnet_50", b"2", Description("ImageNet", tags=("vision",)), metrics={"accuracy": 0.76}, framework="jax"
    )
    database_place.register("churn", b"3", Description(tags=("tabular data",)), task="tabular", metrics={"auc": 0.8})
    database_place.add(resnet, "onnx")
    database_place.add(resnet, "onnx:int8-dynamic")
    return database_place


CASES = [
    (VersionQuery(), ["churn:1", "resnet_50:1", "digits-cnn:1"]),
    (VersionQuery(name="i"), ["digits-cnn:1"]),
    (VersionQuery(name="net_"), ["resnet_50:1"]),
    (VersionQuery(name="*-cnn"), ["digits-cnn:1"]),
    (VersionQuery(name="c*n"), ["churn:1"]),
    (VersionQuery(name="resnet?50"), ["resnet_50:1"]),
    (VersionQuery(name="%"), []),
    (VersionQuery(task="tabular"), ["churn:1"]),
    (VersionQuery(framework="jax"), ["resnet_50:1"]),
    (VersionQuery(format="onnx"), ["resnet_50:1"]),
    (VersionQuery(format="pytorch-exported"), ["churn:1", "resnet_50:1", "digits-cnn:1"]),
    (VersionQuery(tags=("vision",)), ["resnet_50:1", "digits-cnn:1"]),
    (VersionQuery(tags=("vision", "demo")), ["digits-cnn:1"]),
    (VersionQuery(tags=("tabular data",)), ["churn:1"]),
    (VersionQuery(metrics=(MetricFilter.parse("accuracy>=0.9"),)), ["digits-cnn:1"]),
    (VersionQuery(metrics=(MetricFilter.parse("accuracy < 0.9"),)), ["resnet_50:1"]),
    (VersionQuery(metrics=(MetricFilter.parse("accuracy>=0.76"),)), ["resnet_50:1", "digits-cnn:1"]),
    (VersionQuery(metrics=(MetricFilter.parse("accuracy=0.76"),)), ["resnet_50:1"]),
    (VersionQuery(metrics=(MetricFilter.parse("accuracy>.9"), MetricFilter.parse("f1<0.5"))), []),
    (VersionQuery(text="CAFE"), ["digits-cnn:1"]),
    (VersionQuery(text="handwr model"), ["digits-cnn:1"]),
    (VersionQuery(text="imagenet"), ["resnet_50:1"]),
    (VersionQuery(text="tabular"), ["churn:1"]),
    (VersionQuery(text="resnet"), ["resnet_50:1"]),
    (VersionQuery(text="written"), []),
    (VersionQuery(text="'\" OR * --"), []),
    (VersionQuery(text="-- *"), []),
    (VersionQuery(name="net", tags=("vision",), format="onnx", text="image", framework="jax"), ["resnet_50:1"]),
]


def test_each_filter_finds_what_meets_it_newest_first(filled: Place) -> None:
    found = [(query, [v.ref for v in filled.hub.versions.search(query).items]) for query, _ in CASES]
    assert found == CASES


def test_search_follows_updates_and_deletes(filled: Place) -> None:
    search = filled.hub.versions.search
    filled.hub.versions.update(ref("churn:1"), DescriptionChanges(description="Bäume", tags=("trees",)))
    assert [v.ref for v in search(VersionQuery(text="baume")).items] == ["churn:1"]
    assert [v.ref for v in search(VersionQuery(tags=("trees",))).items] == ["churn:1"]
    assert search(VersionQuery(tags=("tabular data",))).items == ()
    filled.hub.versions.delete(ref("resnet_50:1"))
    assert search(VersionQuery(text="imagenet")).items == ()
    assert search(VersionQuery(format="onnx")).items == ()


@pytest.mark.parametrize("stored", ["sklearn", "scikit-learn"])
@pytest.mark.parametrize("asked", ["sklearn", "scikit-learn", "Scikit-Learn"])
def test_a_framework_is_found_by_each_of_its_spellings(database_place: Place, stored: str, asked: str) -> None:
    database_place.register("trees", b"1", framework=stored)
    assert [v.ref for v in database_place.hub.versions.search(VersionQuery(framework=asked)).items] == ["trees:1"]


@pytest.mark.parametrize(
    "query", [{}, {"tags": ("all",)}, {"text": "digits"}, {"metrics": (MetricFilter("f1", ">", 0),)}]
)
def test_pages_hold_every_version_once_also_while_others_register(
    database_place: Place, query: dict[str, object]
) -> None:
    for i in range(7):
        database_place.register(content=b"%d" % i, description=Description(tags=("all",)))
    seen: list[int] = []
    cursor: str | None = None
    for turn in range(10):
        page = database_place.hub.versions.search(VersionQuery(limit=3, cursor=cursor, **query))  # type: ignore[arg-type]
        seen += [v.number for v in page.items]
        database_place.register(content=b"late %d" % turn, description=Description(tags=("all",)))
        cursor = page.next
        if cursor is None:
            break
    assert seen == [7, 6, 5, 4, 3, 2, 1]


def test_the_last_full_page_has_no_next(database_place: Place) -> None:
    for i in range(4):
        database_place.register(content=b"%d" % i)
    first = database_place.hub.versions.search(VersionQuery(limit=2))
    second = database_place.hub.versions.search(VersionQuery(limit=2, cursor=first.next))
    assert (first.next is None, len(second.items), second.next) == (False, 2, None)


@pytest.mark.parametrize("cursor", ["nonsense", "", "djE=", "MTIz", "é"])
def test_a_foreign_cursor_is_refused_or_a_position(database_place: Place, cursor: str) -> None:
    if cursor == "djE=":  # `v1` with padding: one of ours, as a URL may have quoted it
        assert database_place.hub.versions.search(VersionQuery(cursor=cursor)).items == ()
    else:
        with pytest.raises(InvalidInput, match="cursor"):
            database_place.hub.versions.search(VersionQuery(cursor=cursor))
