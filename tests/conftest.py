"""Fixtures shared by all tests: where real data and weights lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers of pytest-xdist must not fight for the cores

from tests.golden import SHARED

# No property test fails because the machine is busy, nor today because of an example that tomorrow does not draw.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED} (set BOXWRIGHT_SHARED)")
    return SHARED
