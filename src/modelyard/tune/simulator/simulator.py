"""Predictions for the configurations of one version on one node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from modelyard.domain.configuration import Configuration
from modelyard.domain.latency import Curve, Overhead
from modelyard.domain.workload import Workload
from modelyard.tune.simulator.bounds import Bounds, bounds
from modelyard.tune.simulator.forecast import Forecast
from modelyard.tune.simulator.service import Load, ModelTimes, SimulatedService
from modelyard.tune.simulator.simulate import simulate

Loads: TypeAlias = Callable[[Workload, Configuration, int], Load]
"""The load of one block of a workload on a configuration, as the load client makes it."""

HOPELESS: Final = 1.25
"""An open loop of so many times the bound of the capacity is not simulated: it saturates the service."""


class Simulator:
    """Predicts how configurations of one version do on one node. Not thread-safe; the same arguments, the same result.

    `curves` by (artifact id, runtime), `overhead` of the node, `cores` it has. `loads` gives the very schedule that a
    measurement of the workload would follow, so that configurations are compared under the same arrivals.
    `curve_units`: see `SimulatedService`; `slots`: instances of the model per replica.
    """

    def __init__(
        self,
        curves: Mapping[tuple[str, str], Curve],
        overhead: Overhead,
        cores: int,
        loads: Loads,
        *,
        curve_units: float | None = None,
        slots: int = 1,
    ) -> None:
        self._curves, self._overhead, self._cores, self._loads = curves, overhead, cores, loads
        self._curve_units, self._slots = curve_units, slots
        self._times: dict[tuple[str, str, int, int], ModelTimes] = {}

    def knows(self, configuration: Configuration) -> bool:
        """Whether there is a batch-latency curve for this configuration."""
        curve = self._curves.get((configuration.artifact, configuration.runtime))
        return curve is not None and any(p.threads == configuration.threads for p in curve.points)

    def service(self, configuration: Configuration) -> SimulatedService:
        """The configuration as it is simulated. Raises InvalidInput without a curve."""
        key = (configuration.artifact, configuration.runtime, configuration.threads, configuration.replicas)
        times = self._times.get(key)
        if times is None:
            curve = self._curves.get(key[:2], Curve(configuration.runtime, error="it was not measured"))
            times = ModelTimes.of(curve, configuration.threads, configuration.replicas, self._cores)
            self._times[key] = times
        return SimulatedService(
            times=times,
            batching=configuration.batching,
            queue=configuration.queue,
            replicas=configuration.replicas,
            slots=self._slots,
            cores=self._cores,
            curve_units=self._curve_units,
            cpu_limit=configuration.cpu_limit,
        )

    def screen(self, configuration: Configuration, workload: Workload) -> Bounds:
        """Bounds by arithmetic, in less than a millisecond: what they exclude needs no simulation."""
        load = self._loads(workload, configuration, 0)
        path = self._overhead.path(workload.protocol)
        return bounds(self.service(configuration), load, self._overhead, path)

    def predict(self, configuration: Configuration, workload: Workload, *, requests: int = 2000) -> Forecast:
        """Simulate about `requests` requests, in blocks as the workload has them. Raises InvalidInput without a curve.

        An open loop far beyond the capacity is not simulated: the forecast then has `saturated` and no requests.
        """
        service, path = self.service(configuration), self._overhead.path(workload.protocol)
        first = self._loads(workload, configuration, 0)
        found = bounds(service, first, self._overhead, path)
        if workload.rate_rps and workload.rate_rps > HOPELESS * found.capacity_rps:
            return _hopeless(found, workload)
        blocks, number = [], 0
        while requests > 0:
            load = _shortened(first if number == 0 else self._loads(workload, configuration, number), requests)
            seed = workload.seed * 1_000_003 + number
            blocks.append(simulate(service, load, overhead=self._overhead, protocol=workload.protocol, seed=seed))
            requests -= load.count
            number += 1
        return Forecast.of(blocks)


def _shortened(load: Load, requests: int) -> Load:
    if load.due_s is not None:
        return replace(load, due_s=load.due_s[:requests])
    return replace(load, requests=min(load.requests, requests))


def _hopeless(found: Bounds, workload: Workload) -> Forecast:
    timeout = workload.timeout_s * 1e3
    return Forecast(
        throughput_rps=found.capacity_rps,
        mean_ms=timeout,
        p50_ms=timeout,
        p95_ms=timeout,
        p99_ms=timeout,
        refused=max(0.0, 1.0 - found.capacity_rps / (workload.rate_rps or found.capacity_rps)),
        mean_batch_rows=0.0,
        cores=found.capacity_rps * found.core_s_per_request,
        core_s_per_request=found.core_s_per_request,
        client_cores=0.0,
        saturated=True,
        requests=0,
    )
