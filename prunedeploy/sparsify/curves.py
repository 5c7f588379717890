"""The epochs of a training as CSV, and as curves in a PNG."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunedeploy.core.files import atomic_path
from prunedeploy.sparsify.recorded import Epoch
from prunedeploy.sparsify.run import Detection


def write_csv(path: Path, epochs: Sequence[Epoch]) -> None:
    """One line an epoch; a cell without a value is empty."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Epoch)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(epoch) for epoch in epochs)


def write_png(
    path: Path, epochs: Sequence[Epoch], title: str, detection: Detection | None = None
) -> bool:
    """Loss, accuracy on the held-out examples, and zeros, by the epochs of all calls.

    ``detection``, how a method found its time, has a panel where there is any: a dashed line is at
    what its values had to fall to, and a dotted one through all panels where it pruned.

    Returns:
        False where matplotlib, which draws, is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 6), layout="constrained")
    shown = detection if detection and detection.values else None
    panels = figure.subplots(4 if shown else 3, 1, sharex=True)
    names = ("loss", "accuracy", "sparsity")
    titles = ("loss of the last batch", "accuracy, held-out examples", "share of zeros")
    for panel, name, label in zip(panels[:3], names, titles, strict=True):
        for call in sorted({epoch.call for epoch in epochs}):
            part = [epoch for epoch in epochs if epoch.call == call]
            at = [_at(epochs, epoch) for epoch in part]
            panel.plot(at, [getattr(epoch, name) for epoch in part], ".-", color="#0a7d55")
        panel.set_ylabel(label, fontsize=8)
        panel.grid(alpha=0.3)
    if shown is not None:
        draw_detection(panels, shown)
    panels[0].set_title(title, fontsize=10)
    panels[-1].set_xlabel("epochs of all trainings")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


def draw_detection(panels: Sequence[Any], detection: Detection) -> None:
    """The last panel: the values, their limit, and the time of pruning in all panels."""
    at = [detection.epochs * number for number in range(1, len(detection.values) + 1)]
    panels[-1].semilogy(at, detection.values, ".-", color="#a05a00")
    panels[-1].axhline(detection.limit, color="#888888", linestyle="--", linewidth=1)
    panels[-1].set_ylabel(detection.measured, fontsize=8)
    panels[-1].grid(alpha=0.3)
    for panel in panels:
        panel.axvline(at[-1], color="#a05a00", linestyle=":", linewidth=1)


def _at(epochs: Sequence[Epoch], epoch: Epoch) -> int:
    """How many epochs were done by then, those before a rewinding included."""
    return epochs.index(epoch) + 1
