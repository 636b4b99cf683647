"""The search for the best configuration: spaces, strategies, the runner and what its answer means (docs/tuning.md)."""
