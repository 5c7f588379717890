"""Draw when EarlyCroP and Early-Bird prune: what they measure an epoch, from the rows of a sweep.

python benchmarks/detection.py digits.sweep -o docs/detection.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prunedeploy.core.files import from_json
from prunedeploy.sparsify.row import Row

PANELS = {
    "earlycrop_u": "EarlyCroP, weights: change of the distance from the start in an epoch",
    "early_bird": "Early-Bird: the largest distance to one of the last masks",
}
COLOURS = ("#0a7d55", "#a05a00", "#4a5fb0", "#a0305a", "#666666")
EARLY_BIRD = 0.1  # the distance below which a mask is drawn


def main() -> None:
    """Read the rows, draw one panel a method."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("detection.png"))
    wanted = parser.parse_args()
    rows = [from_json(Row, each.read_text()) for each in (wanted.folder / "rows").iterdir()]
    figure = Figure(figsize=(8, 6), layout="constrained")
    for panel, (name, title) in zip(figure.subplots(len(PANELS), 1), PANELS.items(), strict=True):
        shown = sorted(
            (row for row in rows if row.recipe.method.name == name),
            key=lambda row: (row.recipe.method.sparsity, row.recipe.seed),
        )
        for row, colour in zip(shown, COLOURS, strict=False):
            values = row.outcome.detection
            method = row.recipe.method
            label = f"{method.sparsity:.0%}, seed {row.recipe.seed}"
            panel.plot(range(1, len(values) + 1), values, ".-", color=colour, label=label)
            panel.plot(len(values), values[-1], "o", color=colour, markersize=9)
        limits = {1 - row.recipe.method.sparsity for row in shown}
        for limit in {EARLY_BIRD} if name == "early_bird" else limits:
            panel.axhline(limit, color="#888888", linestyle="--", linewidth=1)
        panel.set_yscale("log")
        panel.set_title(title, fontsize=9)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    panel.set_xlabel("epochs; pruned at the large dot, by when the dashed line counts")
    figure.savefig(wanted.output, dpi=110)


if __name__ == "__main__":
    main()
