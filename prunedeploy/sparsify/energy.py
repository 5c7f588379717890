"""Energy and emissions of a computation, by codecarbon, offline."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prunedeploy.core.errors import UserError


@dataclass
class Consumption:
    """Energy in kWh and CO2 in kg once the block has ended; None where nothing could tell."""

    energy_kwh: float | None = None
    emissions_kg: float | None = None
    note: str = ""


@contextmanager
def metered(country: str) -> Iterator[Consumption]:
    """What the block takes, on the grid of ``country`` (three letters of ISO 3166); "" for nothing.

    Codecarbon reads the processor's counters where the system lets it, else it estimates from the
    processor's rated power and its load; ``note`` says where codecarbon is missing.

    Raises:
        UserError: there is no such country.
    """
    used = Consumption()
    if not country:
        yield used
        return
    try:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.input import DataSource
    except ImportError:
        used.note = "no energy: codecarbon is not installed: pip install 'prunedeploy[energy]'"
        yield used
        return
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    source: Any = DataSource
    if country not in source().get_global_energy_mix_data():  # it would take the world's mean
        raise UserError(f"country {country!r} is none: give three letters, such as DEU or USA")
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        measure_power_secs=5,
        tracking_mode="process",
        save_to_file=False,
        allow_multiple_runs=True,
        log_level="critical",
    )
    tracker.start()
    try:
        yield used
    finally:
        used.emissions_kg = tracker.stop()
        used.energy_kwh = tracker.final_emissions_data.energy_consumed
