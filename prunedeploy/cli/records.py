"""What commands print that no function of the API returns in one piece."""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.prediction.record import Prediction


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of a model, and why there is none in some runtimes."""

    predictions: tuple[Prediction, ...]
    refused: tuple[str, ...]
