"""The load client: a process of its own, `python -m modelyard.profile.client plan.json`.

It reads commands from its standard input and answers on its standard output, one JSON line each (see `..plan`).
"""
