"""One command, one table: Modelyard's server beside its peers and its limits.

    make bench-serving
    make bench-serving ARGS="--systems modelyard,triton --models mlp --seconds 2 --rounds 1"

Makes a virtual environment for each peer under the cache folder (several GB in all), starts every system for each
model, checks every answer against the in-process runtime, measures in interleaved rounds. Needs nginx-light, wrk and
nghttp2-client (Debian packages). See docs/serving-benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import platformdirs

from bench.serving import report
from bench.serving.clients import missing_tools
from bench.serving.environments import versions
from bench.serving.models import MODELS
from bench.serving.options import Options
from bench.serving.plan import EXTENTS, cells
from bench.serving.results import Environment, Results
from bench.serving.runner import run
from bench.serving.systems import SYSTEMS
from bench.serving.systems.ports import BINARY, GRPC, JSON
from modelyard.profile import fingerprint

_PROTOCOLS = {"json": JSON, "binary": BINARY, "grpc": GRPC}
_ROOT = Path(__file__).parents[2]
_OVERHEAD_S = 0.25
"""Per cell, beside its seconds: thawing, the check of the answers, the client's start. Seen in short runs."""


def main() -> int:
    options, args = _options()
    if missing := missing_tools():
        print(f"missing programs; install the Debian packages: {' '.join(missing)}", file=sys.stderr)
        return 2
    started = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    print(_estimate(options), file=sys.stderr, flush=True)
    results = Results(_environment(options, started))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ends the run ends the servers
    try:
        run(options, results)
    except KeyboardInterrupt:
        print("interrupted: the report has what was measured", file=sys.stderr)
    finally:  # whatever happens, what was measured is kept
        results.environment.packages = _packages(options)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
        print(f"raw results: {args.output}", file=sys.stderr)
    text = report.markdown(results)
    print(text)
    if args.write:
        report.write(args.write, text)
    return 0 if any(cell.timings for cell in results.cells) else 1


def _options() -> tuple[Options, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(platformdirs.user_cache_dir("modelyard-bench"))
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated; default: %(default)s")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; default: %(default)s")
    parser.add_argument("--protocols", default=",".join(_PROTOCOLS), help="comma-separated; default: %(default)s")
    parser.add_argument("--connections", help="comma-separated, e.g. 1,32; default: those of each model")
    parser.add_argument("--seconds", type=int, default=1, help="per cell, whole seconds (ResNet-50: twice)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="runtime threads in every system (default %(default)s)")
    parser.add_argument("--cold-starts", type=int, default=3, help="starts of each system on the first model")
    parser.add_argument("--cache", type=Path, default=cache, help="environments, models, logs (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file of the results (default: in the cache folder)")
    parser.add_argument("--write", type=Path, help="page whose results section is replaced")
    parser.add_argument("--list", action="store_true", help="list systems and models, measure nothing")
    args = parser.parse_args()
    if args.list:
        for name, system in SYSTEMS.items():
            print(f"{name:14}{system.title:32}{', '.join(system.requirements)}")
        for name, model in MODELS.items():
            print(f"{name:14}{model.title}")
        raise SystemExit(0)
    args.cache = args.cache.absolute()
    args.output = args.output or args.cache / "results" / time.strftime("%Y%m%d-%H%M%S.json")
    options = Options(
        _chosen(parser, "system", args.systems, list(SYSTEMS)),
        _chosen(parser, "model", args.models, list(MODELS)),
        tuple(_PROTOCOLS[name] for name in _chosen(parser, "protocol", args.protocols, list(_PROTOCOLS))),
        tuple(sorted(int(n) for n in args.connections.split(","))) if args.connections else None,
        args.seconds,
        args.rounds,
        args.threads,
        args.cold_starts,
        args.cache,
    )
    return options, args


def _chosen(parser: argparse.ArgumentParser, kind: str, given: str, known: list[str]) -> tuple[str, ...]:
    """Names in the order of the table, whatever order they were given in."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"no {kind} '{name}'; there are {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _estimate(options: Options) -> str:
    count, total = 0, 0.0
    for name in options.models:
        groups = cells(options.systems, MODELS[name], options.connections, options.protocols)
        number = sum(len(group) for group in groups)
        count += number
        total += number * options.rounds * (options.seconds * EXTENTS[name].seconds + _OVERHEAD_S)
    return f"{count} cells, {options.rounds} rounds: about {total / 60:.0f} minutes of measuring, and the starts"


def _environment(options: Options, started: str) -> Environment:
    node = fingerprint()
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=_ROOT, check=False
    )
    return Environment(
        started=started,
        cpu=node.cpu_model,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        commit=done.stdout.strip() or "unknown",
        load_average=os.getloadavg()[0],
        threads=options.threads,
        rounds=options.rounds,
        seconds=options.seconds,
        tools={name: _tool(*command) for name, command in _TOOLS.items()},
        packages={},
    )


_TOOLS = {"nginx": ("nginx", "-v"), "wrk": ("wrk", "-v"), "h2load": ("h2load", "--version")}


def _tool(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "missing"
    found = re.search(r"(\d+\.\d+[\w.+-]*)", done.stderr + done.stdout)
    return found[1] if found else "unknown"


def _packages(options: Options) -> dict[str, dict[str, str]]:
    """The versions that ran, read from each environment after the run."""
    found: dict[str, dict[str, str]] = {}
    for name in options.systems:
        system = SYSTEMS[name]
        python = options.cache / "venvs" / name / "bin" / "python"
        if not system.requirements:
            found[name] = {package: _own(package) for package in system.packages}
        elif python.exists():
            found[name] = versions(str(python), (*system.packages, "onnxruntime"))
    return found


def _own(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    sys.exit(main())
