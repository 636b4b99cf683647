"""Faults under load with what callers see; a row of the fault table each: `python -m bench.faults`."""
