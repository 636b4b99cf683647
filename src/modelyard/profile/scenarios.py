"""MLPerf LoadGen's scenarios: the number that counts in each, from the raw samples.

| scenario | requests | number |
|---|---|---|
| `single-stream` | the next one when the last is answered | p90 |
| `multi-stream` | the same, 8 samples a request | p99 |
| `server` | Poisson arrivals at a rate | p99, under the SLO if there is one |
| `offline` | all samples are there at once | samples per second |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.measurement import EarlyStopping, ScenarioResult
from modelyard.domain.workload import Scenario, Workload
from modelyard.profile.early_stopping import overs_allowed, percentile_estimate, queries_needed
from modelyard.profile.samples import Samples
from modelyard.profile.statistics import percentile

PERCENTILES: Final = {Scenario.SINGLE_STREAM: 0.90, Scenario.MULTI_STREAM: 0.99, Scenario.SERVER: 0.99}
"""LoadGen's `*_target_latency_percentile`."""


def scenario_result(workload: Workload, blocks: Sequence[Samples], limit_ms: float | None) -> ScenarioResult | None:
    """The number of the workload's scenario over all blocks; None without one. `limit_ms`: the SLO, for `server`."""
    scenario = workload.scenario
    if scenario is None:
        return None
    if scenario is Scenario.OFFLINE:
        return ScenarioResult(scenario, "throughput", samples_per_s(blocks, workload.batch), "samples/s")
    latencies = np.concatenate([block.latencies_ms(workload.timeout_s) for block in blocks])
    share = PERCENTILES[scenario]
    stopping = early_stopping(latencies, share, limit_ms if scenario is Scenario.SERVER else None)
    return ScenarioResult(scenario, f"p{share * 100:g}", percentile(latencies, share), "ms", stopping)


def early_stopping(latencies_ms: NDArray[np.float64], share: float, limit_ms: float | None = None) -> EarlyStopping:
    """LoadGen's statistic for one percentile of these latencies; a failed request's is its timeout."""
    count = len(latencies_ms)
    return EarlyStopping(
        share=share,
        queries=count,
        needed=queries_needed(1, share),
        at_most_ms=percentile_estimate(latencies_ms, share),
        limit_ms=limit_ms,
        over=0 if limit_ms is None else int((latencies_ms > limit_ms).sum()),
        allowed=overs_allowed(count, share),
    )


def samples_per_s(blocks: Sequence[Samples], batch: int) -> float:
    """Rows answered per second, from the first request of a block to its last answer."""
    span_s = sum(float(block.completed_s.max()) for block in blocks)
    return sum(int(block.ok.sum()) for block in blocks) * batch / span_s if span_s > 0 else 0.0
