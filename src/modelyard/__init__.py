"""Modelyard turns a trained model into the cheapest service that meets its latency target."""

__version__ = "0.1.0"
