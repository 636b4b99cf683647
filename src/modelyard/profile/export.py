"""Measurements for other programs: CSV (a row each), JSON (everything), Parquet (every request). docs/reports.md.

Names of columns carry their units. Within a schema's version fields are added, never renamed or removed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from modelyard.domain.errors import Unsupported
from modelyard.domain.measurement import Interval, Measurement
from modelyard.profile.samples import Samples

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA: Final = "modelyard/measurements/v1"
"""Of the JSON document, which is also the metadata of a Parquet file under the key `METADATA`."""
METADATA: Final = b"modelyard"


class ExportFormat(StrEnum):
    """What measurements can be written as; the value is the file's suffix too."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Document:
    """The JSON document: domain values, field by field."""

    schema: str
    measurements: tuple[Measurement, ...]


Cell = str | int | float | bool | None
Reader = Callable[[Measurement], Cell]


def json_text(measurements: Sequence[Measurement]) -> str:
    """The JSON document, indented, with a final newline. A number that is not finite is null."""
    import msgspec

    encoded = msgspec.json.encode(Document(SCHEMA, tuple(measurements)))
    return msgspec.json.format(encoded, indent=2).decode() + "\n"


def csv_text(measurements: Sequence[Measurement]) -> str:
    """One line of names, then one per measurement (RFC 4180); what is unknown is empty. The verdict comes early."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for m in measurements:
        writer.writerow(["" if (cell := read(m)) is None else cell for read in COLUMNS.values()])
    return out.getvalue()


def write_parquet(path: Path, measured: Sequence[tuple[Measurement, Path]]) -> int:
    """Write one row per request, a row group per measurement; gives the number of rows.

    `measured` are measurements with their raw samples, loaded one at a time. Raises Unsupported without pyarrow,
    NotFound and InvalidInput for samples that cannot be read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise Unsupported(
            "Parquet needs pyarrow, which is not installed",
            hint="pip install 'modelyard[parquet]', or export csv or json",
        ) from error
    about = json_text([m for m, _ in measured]).encode()
    schema = pa.schema(_fields(), metadata={METADATA: about})
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for m, source in measured:
            samples = Samples.load(source)
            writer.write_table(_table(schema, m, samples))
            rows += len(samples)
    return rows


def _fields() -> list[tuple[str, object]]:
    from pyarrow import bool_, dictionary, float64, int16, int32, string

    times = ("scheduled_s", "dispatched_s", "sent_s", "completed_s")
    return [
        ("measurement", dictionary(int32(), string())),
        ("block", int32()),
        *((name, float64()) for name in times),
        ("status", int16()),
        ("ok", bool_()),
        ("latency_ms", float64()),
    ]


def _table(schema: pa.Schema, m: Measurement, samples: Samples) -> pa.Table:
    """The columns of the raw samples; `latency_ms` as every indicator counts it: a failure is a full timeout."""
    from pyarrow import DictionaryArray, Table, array

    names = DictionaryArray.from_arrays(array(np.zeros(len(samples), np.int32)), array([m.id]))
    columns = [names, samples.block, samples.scheduled_s, samples.dispatched_s, samples.sent_s, samples.completed_s]
    columns += [samples.status, samples.ok, samples.latencies_ms(m.workload.timeout_s)]
    return Table.from_arrays([c if c is names else array(c) for c in columns], schema=schema)


def _bounds(name: str, read: Callable[[Measurement], Interval | None]) -> Iterator[tuple[str, Reader]]:
    """A value and the ends of its interval: three columns."""

    def part(of: str) -> Reader:
        return lambda m: None if (interval := read(m)) is None else getattr(interval, of)

    yield name, part("value")
    yield f"{name}_low", part("low")
    yield f"{name}_high", part("high")


def _cost(m: Measurement) -> Interval | None:
    i = m.indicators
    return (i.cost_interval or Interval(i.cost_per_million)) if i.cost_known else None


def _stage(name: str) -> Reader:
    return lambda m: None if m.indicators.stages is None else getattr(m.indicators.stages, name)


def _early(name: str) -> Reader:
    def read(m: Measurement) -> Cell:
        result = m.indicators.scenario
        stopping = None if result is None else result.early_stopping
        return None if stopping is None else getattr(stopping, name)

    return read


_EARLY: Final = ("share", "queries", "needed", "at_most_ms", "limit_ms", "over", "allowed", "met")
_STAGES: Final = ("queue_ms", "batch_wait_ms", "pre_ms", "infer_ms", "post_ms", "encode_ms", "mean_batch_rows")

COLUMNS: Final[dict[str, Reader]] = {
    "measurement": lambda m: m.id,
    "model": lambda m: m.model,
    "version": lambda m: m.version,
    "validity": lambda m: str(m.verdict.validity),
    "saturated": lambda m: m.verdict.saturated,
    "reasons": lambda m: "; ".join(m.verdict.reasons),
    "target": lambda m: str(m.configuration.target),
    "runtime": lambda m: m.configuration.runtime,
    "precision": lambda m: str(m.configuration.precision),
    "device": lambda m: m.configuration.device,
    "threads": lambda m: m.configuration.threads,
    "replicas": lambda m: m.configuration.replicas,
    "max_batch_rows": lambda m: m.configuration.batching.max_size,
    "max_delay_us": lambda m: m.configuration.batching.max_delay_us,
    "cpu_limit_cores": lambda m: m.configuration.cpu_limit,
    "memory_limit_bytes": lambda m: m.configuration.memory_limit_bytes,
    "serving_system": lambda m: m.configuration.serving_system,
    "engine": lambda m: m.configuration.engine,
    "scenario": lambda m: None if m.workload.scenario is None else str(m.workload.scenario),
    "arrival": lambda m: str(m.workload.arrival),
    "concurrency": lambda m: None if m.workload.open_loop else m.workload.concurrency,
    "rate_rps": lambda m: m.workload.rate_rps,
    "end_rate_rps": lambda m: m.workload.end_rate_rps,
    "cv": lambda m: m.workload.cv,
    "trace": lambda m: None if m.workload.trace is None else m.workload.trace.digest,
    "rows_per_request": lambda m: m.workload.batch,
    "protocol": lambda m: str(m.workload.protocol),
    "blocks": lambda m: m.workload.blocks,
    "timeout_s": lambda m: m.workload.timeout_s,
    "seed": lambda m: m.workload.seed,
    "requests": lambda m: m.indicators.requests,
    "error_fraction": lambda m: m.indicators.error_fraction,
    **dict(_bounds("throughput_rps", lambda m: m.indicators.throughput_rps)),
    "rows_per_s": lambda m: m.indicators.rows_per_s,
    **dict(_bounds("mean_ms", lambda m: m.indicators.mean_ms)),
    **dict(_bounds("p50_ms", lambda m: m.indicators.p50_ms)),
    **dict(_bounds("p95_ms", lambda m: m.indicators.p95_ms)),
    **dict(_bounds("p99_ms", lambda m: m.indicators.p99_ms)),
    "p999_ms": lambda m: m.indicators.p999_ms,
    "scenario_metric": lambda m: None if m.indicators.scenario is None else m.indicators.scenario.metric,
    "scenario_value": lambda m: None if m.indicators.scenario is None else m.indicators.scenario.value,
    **{f"early_stopping_{name}": _early(name) for name in _EARLY},
    "time_to_first_response_ms": lambda m: m.indicators.time_to_first_response_ms,
    "cold_start_s": lambda m: m.indicators.cold_start_s,
    "memory_rss_bytes": lambda m: m.indicators.memory_rss_bytes,
    "cpu_cores": lambda m: m.indicators.cpu_cores,
    "gpu_memory_bytes": lambda m: m.indicators.gpu_memory_bytes,
    "gpu_utilisation": lambda m: m.indicators.gpu_utilisation,
    "core_s_per_request": lambda m: m.indicators.core_s_per_request if m.indicators.cost_known else None,
    **dict(_bounds("cost_per_million", _cost)),
    **{name: _stage(name) for name in _STAGES},
    "send_lag_p99_ms": lambda m: m.client.send_lag_p99_ms,
    "offered_rps": lambda m: m.client.offered_rps,
    "client_cpu_cores": lambda m: m.client.cpu_cores,
    "blocks_discarded": lambda m: m.blocks_discarded,
    "node": lambda m: m.fingerprint.id,
    "purpose": lambda m: m.purpose,
    "created_at": lambda m: m.created_at,
}
"""Columns of the CSV, in order."""
