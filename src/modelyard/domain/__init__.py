"""Values and errors that every other part speaks in. Standard library and numpy only; import from the submodules."""
