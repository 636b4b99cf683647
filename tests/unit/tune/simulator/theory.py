"""Known answers of queueing theory. Times in seconds, `rate` in requests per second."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def mean_md1_s(rate: float, service_s: float) -> float:
    """Mean time in an M/D/1 system (Pollaczek and Khinchine)."""
    load = rate * service_s
    return service_s * (1 + load / (2 * (1 - load)))


def mean_mmk_s(rate: float, service_s: float, servers: int) -> float:
    """Mean time in an M/M/k system (Erlang C)."""
    offered = rate * service_s
    load = offered / servers
    terms = [offered**i / math.factorial(i) for i in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - load)
    return service_s + last / (sum(terms) + last) * service_s / (servers * (1 - load))


def mean_greedy_batches_s(rate: float, service_s: float, most: int, states: int = 400) -> float:
    """Mean time in a queue whose server takes all that waits, `most` at the most, and serves it in a constant time.

    From the Markov chain of how many a finished service leaves behind, solved numerically; Little's law on the time
    average of its cycles.
    """
    arrivals = _poisson(rate * service_s, states)
    chain = np.zeros((states, states))
    for left in range(states):
        behind = max(left - most, 0)
        chain[left, behind:] = arrivals[: states - behind]
        chain[left, -1] += 1.0 - chain[left].sum()
    shares = np.full(states, 1.0 / states)
    for _ in range(20_000):
        following = shares @ chain
        if np.abs(following - shares).sum() < 1e-13:
            break
        shares = following
    left = np.arange(states)
    waiting = np.maximum(left - most, 0) * service_s + rate * service_s**2 / 2
    served = np.clip(left, 1, most) * service_s  # an idle server takes the next that comes, alone
    cycle = service_s + np.where(left == 0, 1.0 / rate, 0.0)
    return float(shares @ (waiting + served) / (shares @ cycle) / rate)


def _poisson(mean: float, states: int) -> NDArray[np.float64]:
    counts = np.arange(states)
    logs = counts * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in counts])
    return np.asarray(np.exp(logs), np.float64)
