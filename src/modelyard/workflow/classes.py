"""The names of a classifier's classes, where the version says them."""

from __future__ import annotations

import json

from modelyard.domain.versions import Definition

_KEEP_COLUMNS = frozenset({"softmax", "scale", "cast"})


def class_names(definition: Definition) -> tuple[str, ...]:
    """Names of the columns of the scores, in their order: the source's `classes`; empty where it has none.

    Empty too where a step after the model may move columns: `top_k`'s columns are ranks, and it answers its labels
    itself.
    """
    named = definition.source.options.get("classes")
    if named is None or any(step.kind not in _KEEP_COLUMNS for step in definition.postprocess):
        return ()
    return tuple(str(name) for name in json.loads(named))
