"""What one shot made of a network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from prunedeploy.sparsify.units import Masks


@dataclass(frozen=True)
class LayerResult:
    """A layer's weights, how many are left, and its error.

    ``error`` is the mean square of what pruning and refitting changed in the layer's outputs,
    relative to their variance (their mean square where no shift is free).
    """

    name: str
    pattern: str
    weights: int
    kept: int
    error: float


@dataclass(frozen=True)
class Speed:
    """The speed on ``target``, in multiples of the dense network's in its best stock runtime.

    ``predicted`` is that of the cost model; ``measured`` is 0 where nothing was measured;
    ``wanted`` is what was asked for.
    """

    target: str
    wanted: float
    predicted: float
    measured: float = 0.0

    @property
    def reached(self) -> float:
        """What was measured, or else predicted."""
        return self.measured or self.predicted

    @property
    def missed(self) -> bool:
        """Whether it is more than a tenth below what was wanted."""
        return self.reached < 0.9 * self.wanted


@dataclass(frozen=True)
class OneShot:
    """A sparse network, and how it came about.

    ``density`` and ``flops`` are the shares of weights and of multiply-accumulates that are left in
    all convolutions and linear layers; ``agreement`` is the share of the calibration's samples
    that the sparse network puts in the class that the dense one does. ``notes`` say what was left
    out, and why.
    """

    module: nn.Module
    masks: Masks
    layers: tuple[LayerResult, ...]
    density: float
    flops: float
    agreement: float
    samples: int
    seconds: float
    speed: Speed | None = None
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """The result in one sentence."""
        parts = [
            f"{1 - self.density:.1%} of the weights are zero, {self.flops:.1%} of the "
            f"multiply-accumulates are left, {self.agreement:.1%} of {self.samples:,} samples "
            "are classified as before"
        ]
        if (speed := self.speed) is not None:
            how = "measured" if speed.measured else "predicted"
            parts.append(
                f"{how} at {speed.reached:.2f}x the speed of the dense network on {speed.target}"
            )
            if speed.missed:
                parts.append(f"{speed.wanted:g}x was asked for")
        return ", ".join(parts)
