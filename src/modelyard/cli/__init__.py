"""The command line `yard`: parse, call one service of the facade `modelyard.bootstrap.Yard`, render.

stdout carries data, stderr carries progress and errors. Nothing heavy is imported before a command's body runs.
"""

from modelyard.cli.app import main

__all__ = ["main"]
