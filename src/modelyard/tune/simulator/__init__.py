"""What would a configuration do under a load? A simulation of the server, its node and its client.

    simulator = Simulator(curves, overhead, cores, loads)      # once per version and node
    simulator.screen(configuration, workload)                  # Bounds: below a millisecond, excludes most
    simulator.predict(configuration, workload)                 # Forecast of 2000 requests: some 50 ms
    simulator.predict(configuration, workload, requests=20000) # for those that are left: half a second

`curves` (`domain.latency.Curve` by artifact id and runtime) come from `profile.curve`, the `overhead`
(`domain.latency.Overhead`) from `profile.overhead`; `loads` is what the load client would do. `workflow.simulating`
composes all of it for a version. `simulate(service, load)` is the same without a version: any service, any load.

Queues, batches and refusals are decided by the server's own `domain.scheduling.Scheduler`, which runs here under a
simulated clock. Time on the cores is shared as a fair scheduler shares it; the load client is on the same node.
"""

from modelyard.tune.simulator.bounds import Bounds, bounds
from modelyard.tune.simulator.forecast import Forecast, Simulated
from modelyard.tune.simulator.service import Load, ModelTimes, Run, SimulatedService
from modelyard.tune.simulator.simulate import simulate
from modelyard.tune.simulator.simulator import Loads, Simulator

__all__ = [
    "Bounds",
    "Forecast",
    "Load",
    "Loads",
    "ModelTimes",
    "Run",
    "Simulated",
    "SimulatedService",
    "Simulator",
    "bounds",
    "simulate",
]
