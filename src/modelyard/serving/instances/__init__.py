"""Where a model executes: in the replica's own process, or each instance in a child process of its own."""
