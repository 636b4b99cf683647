"""Entry point of the process of one instance; started by a replica, with a socket and a spec on standard input."""

from __future__ import annotations

import argparse
import sys

from modelyard.serving.instances.child import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m modelyard.serving.instances", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socket to the replica")
    sys.exit(main(parser.parse_args().socket))
