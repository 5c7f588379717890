"""Energy: nothing unasked, a note where codecarbon is missing, numbers where it is there."""

from __future__ import annotations

import importlib.util
import time

import pytest

from prunedeploy import UserError
from prunedeploy.sparsify.energy import metered

THERE = importlib.util.find_spec("codecarbon") is not None


def test_nothing_unasked() -> None:
    with metered("") as used:
        pass
    assert (used.energy_kwh, used.emissions_kg, used.note) == (None, None, "")


@pytest.mark.skipif(THERE, reason="codecarbon is installed")
def test_a_note_where_it_is_missing() -> None:
    with metered("DEU") as used:
        pass
    assert used.energy_kwh is None
    assert "pip install 'prunedeploy[energy]'" in used.note


@pytest.mark.skipif(not THERE, reason="needs codecarbon")
def test_energy_and_emissions() -> None:
    with metered("DEU") as used:
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
    assert used.energy_kwh is not None
    assert used.energy_kwh > 0
    assert used.emissions_kg is not None
    assert used.emissions_kg > 0
    with pytest.raises(UserError, match="country 'XXX' is none"), metered("XXX"):
        pass
