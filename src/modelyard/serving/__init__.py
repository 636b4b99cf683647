"""The data plane: the inference server that a replica runs (`python -m modelyard.serving --spec replica.json`)."""
