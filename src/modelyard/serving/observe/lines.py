"""Spans as lines of JSON, many requests at once: what `spans.spans` says as msgspec writes it, for a tenth of the cost.

A stage's line is as long in every request: ids are 16 or 32 hexadecimal digits, times 19 decimal ones (until 2286). So
the stages of all requests that had the same ones are a table of bytes, filled by column, for the most part without the
interpreter's lock, which the event loop needs. Only a request's own line is formatted on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.serving.observe.context import new_span_ids
from modelyard.serving.observe.spans import Sample
from modelyard.serving.observe.stages import STAGES, unix_offset_s

_Bytes = NDArray[np.uint8]
_FOUR: Final = np.frombuffer(b"".join(b"%04d" % n for n in range(10_000)), np.uint32)
"""The four digits of each number as the bytes of one."""
_EIGHT: Final = 10**8
_BITS: Final = 1 << np.arange(len(STAGES))
_ID, _TRACE = 16, 32
_encode = msgspec.json.Encoder().encode


def lines(samples: Sequence[Sample]) -> bytes:
    """Of each request its own line, then its stages in order, those of no length left out. Any thread."""
    times = nanoseconds(bounds(samples))
    places = [place for sample in samples for place in sample.places]
    parts = [b""] * (2 * len(places))
    parts[::2] = _own_lines(samples, times)
    ids = np.frombuffer("".join([p[0] + p[1] for p in places]).encode("ascii"), np.uint8).reshape(-1, _TRACE + _ID)
    masks = (times[:, 1:] > times[:, :-1]) @ _BITS
    shown = digits(times)
    for mask in np.unique(masks).tolist():
        rows = np.flatnonzero(masks == mask)
        names = [(i, name) for i, name in enumerate(STAGES) if mask >> i & 1]
        table = _stage_lines(names, ids[rows], shown[rows])
        size, text = table.shape[1], table.tobytes()
        for at, row in enumerate(rows.tolist()):
            parts[2 * row + 1] = text[at * size : (at + 1) * size]
    return b"".join(parts)


def bounds(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """`stages.bounds` of every request: a row each."""
    columns = zip(*(member for sample in samples for member in sample.members), strict=True)
    received, whole, enqueued, pre_s, post_s, encoded, sent = (
        np.array(c) for c, _ in zip(columns, range(7), strict=False)
    )
    counts = [len(sample.members) for sample in samples]
    free, start, end = np.repeat(np.array([sample.entry[2:5] for sample in samples]), counts, axis=0).T
    queued = np.minimum(np.maximum(free, enqueued), start)
    found = (received, whole, enqueued - pre_s, enqueued, queued, start, end, end + post_s, encoded, sent)
    return np.stack(found, axis=1)


def _own_lines(samples: Sequence[Sample], times: NDArray[np.int64]) -> list[bytes]:
    found: list[bytes] = []
    starts, ends = iter(times[:, 0].tolist()), iter(times[:, -1].tolist())
    for sample in samples:
        name, attributes, tail = _common(sample)
        # the times of all samples come last: zip() asks for one only where this sample has more
        each = zip(sample.members, sample.places, starts, ends, strict=False)
        for member, (trace, span, parent, state), start, end in each:
            above = f',"parent_span_id":"{parent}"' if parent else ""
            known = f',"request.id":{_text(member[7])}' if member[7] else ""
            kept = f',"state":{_text(state)}' if state else ""
            found.append(
                f'{{"trace_id":"{trace}","span_id":"{span}"{name}{start},"end_unix_ns":{end}{above}{attributes}{known}'
                f"}}{tail}{kept}}}\n".encode()
            )
    return found


def _common(sample: Sample) -> tuple[str, str, str]:
    """What the own lines of a batch's requests have in common: before the times, the attributes, after them."""
    face, rows, _, _, _, _, error = sample.entry
    name = f',"name":{_text(f"infer {face.name}")},"start_unix_ns":'
    attributes = f',"attributes":{{"model":{_text(face.name)},"version":{face.version},"batch.rows":{rows}'
    return name, attributes, f',"error":{_text(error)}' if error else ""


def _text(value: str) -> str:
    return _encode(value).decode()


def _stage_lines(names: list[tuple[int, str]], places: _Bytes, shown: _Bytes) -> _Bytes:
    """The stages of requests that all have the same: a row per request. `names`: each stage's number and name."""
    count = len(places)
    spans = np.frombuffer(new_span_ids(count * len(names)), np.uint8).reshape(count, len(names), _ID)
    line = b""
    columns: list[tuple[int, _Bytes]] = []
    for number, (stage, name) in enumerate(names):
        for text, column in (
            (b'{"trace_id":"', places[:, :_TRACE]),
            (b'","span_id":"', spans[:, number]),
            (b'","name":"%b","start_unix_ns":' % name.encode(), shown[:, stage]),
            (b',"end_unix_ns":', shown[:, stage + 1]),
            (b',"parent_span_id":"', places[:, _TRACE:]),
        ):
            line += text
            columns.append((len(line), column))
            line += bytes(column.shape[1])
        line += b'"}\n'
    table = np.empty((count, len(line)), np.uint8)
    table[:] = np.frombuffer(line, np.uint8)
    for at, column in columns:
        table[:, at : at + column.shape[1]] = column
    return table


def nanoseconds(clocks: NDArray[np.float64]) -> NDArray[np.int64]:
    """Readings of `perf_counter` as nanoseconds since 1970."""
    found: NDArray[np.int64] = (clocks * 1e9).astype(np.int64) + int(unix_offset_s() * 1e9)
    return found


def digits(values: NDArray[np.int64]) -> _Bytes:
    """The 19 digits of each value, zeros in front, as a last dimension."""
    found = np.empty((*values.shape, 5), np.uint32)
    upper = values // _EIGHT
    top = upper // _EIGHT
    found[..., 0] = _FOUR[top]
    for at, part in ((1, upper - top * _EIGHT), (3, values - upper * _EIGHT)):
        eight = part.astype(np.uint32)  # division of these is much faster
        four = eight // 10_000
        found[..., at] = _FOUR[four]
        found[..., at + 1] = _FOUR[eight - four * 10_000]
    return found.view(np.uint8)[..., 1:]
