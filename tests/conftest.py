"""Fixtures for all tests: one thread, and where the real data is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real weights and images: $PRUNEDEPLOY_DATA, or shared/data beside us."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRUNEDEPLOY_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set PRUNEDEPLOY_DATA to its folder")
    return folder
