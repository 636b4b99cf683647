"""Entry point of a replica process. Exit codes: 0 drained, 1 failed, 2 bad spec or usage, 5 port in use."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import uvloop

from modelyard.domain.errors import Conflict, InvalidInput, ModelyardError
from modelyard.domain.services import ReplicaSpec
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.replica import Replica, load_spec


class JsonLines(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def main(arguments: list[str] | None = None, runtimes: Runtimes | None = None) -> int:
    """Run a replica until it is told to stop. `runtimes`: what may execute models, by default all installed ones."""
    parser = argparse.ArgumentParser(prog="python -m modelyard.serving", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="JSON of a ReplicaSpec")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    options = parser.parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler], force=True)
    log = logging.getLogger("modelyard.serving")
    # a float64 of JSON beyond float32's range becomes infinity, as in every other server; no warning per request
    warnings.filterwarnings("ignore", message="overflow encountered in cast")
    try:
        spec = load_spec(options.spec)
        uvloop.run(_serve(spec, runtimes or Runtimes.discover()))
    except ModelyardError as error:
        log.error("%s%s", error, f" ({error.hint})" if error.hint else "")
        return 5 if isinstance(error, Conflict) else 2 if isinstance(error, InvalidInput) else 1
    return 0


async def _serve(spec: ReplicaSpec, runtimes: Runtimes) -> None:
    replica = Replica(spec, runtimes, _version())
    await replica.run()


def _version() -> str:
    try:
        return version("modelyard")
    except PackageNotFoundError:
        return "0"


if __name__ == "__main__":
    sys.exit(main())
