"""One file per engine, and what the process engine is made of."""
