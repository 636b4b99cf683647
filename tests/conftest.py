"""Fixtures for all tests."""

import os

from hypothesis import settings

# CI tries the same examples every time, so that a commit does not fail for what an earlier one brought
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

pytest_plugins = ("tests.services", "tests.calibration")
