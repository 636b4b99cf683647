"""Built-in converters, one file per family of sources. Frameworks are imported inside `convert` only."""
