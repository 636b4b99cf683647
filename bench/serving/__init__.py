"""`make bench-serving`: Modelyard's server beside its peers and its limits, in one run, as one table."""
