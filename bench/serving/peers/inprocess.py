"""The runtime without a server: one line in (`batch seconds`), one JSON line out, until stdin ends."""

import json
import sys
import time

import numpy as np
from ort_model import OrtModel


def measure(model, requests, batch, seconds):
    """Rows per second and the distribution of one run's time, back to back, requests in turn."""
    feeds = [{name: np.repeat(array, batch, axis=0) for name, array in feed.items()} for feed in requests]
    for feed in feeds:
        model(feed)
    times = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        for feed in feeds:
            started = time.perf_counter()
            model(feed)
            times.append(time.perf_counter() - started)
    ms = np.percentile(times, (50, 99)) * 1e3
    return {"rate": batch * len(times) / sum(times), "p50_ms": ms[0], "p99_ms": ms[1], "count": len(times)}


def main():
    model = OrtModel()
    with np.load(sys.argv[1]) as file:
        count = 1 + max(int(name.partition(".")[0]) for name in file)
        requests = [{name: file[f"{i}.{name}"] for name in model.inputs} for i in range(count)]
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(json.dumps(measure(model, requests, int(batch), float(seconds))), flush=True)


if __name__ == "__main__":
    main()
