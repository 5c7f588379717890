"""A small grid that trains in seconds, its rows without what machines differ in, rows by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunedeploy.sparsify.recipe import MethodChoice, Recipe, from_table
from prunedeploy.sparsify.row import Cost, Deployed, Latency, Outcome, Row

GRID = """
network = "resnet8_digits"
seed = [0, 1]
[data]
path = "digits.npz"
hold-out = 16
[train]
epochs = {epochs}
batch = 32
[[method]]
name = "dense"
[[method]]
name = ["random_u", "gradual"]
sparsity = 0.9
"""


def write_grid(folder: Path, epochs: int = 1, images: int = 80) -> Path:
    """A grid of six rows and its data, noise with labels; returns the file."""
    random = np.random.default_rng(0)
    np.savez(
        folder / "digits.npz",
        images=random.integers(0, 256, (images, 1, 8, 8), dtype=np.uint8),
        labels=np.arange(images) % 10,
        test_images=random.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8),
        test_labels=np.arange(40) % 10,
    )
    file = folder / "grid.toml"
    text = GRID.format(epochs=epochs).replace("digits.npz", str(folder / "digits.npz"))
    file.write_text(text)
    return file


def computed(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What a row is a function for: all but its cost, in the order of the grid."""
    return [{**asdict(row), "cost": None} for row in rows]


def made_row(
    accuracy: float,
    name: str = "snip",
    seed: int = 0,
    milliseconds: float | None = None,
    sparsity: float = 0.9,
) -> Row:
    """A row of 100 test examples by hand."""
    table = {
        "network": "resnet8_digits",
        "seed": seed,
        "data": {"path": "digits"},
        "train": {"epochs": 1},
        "method": {"name": name, "sparsity": 0.0 if name == "dense" else sparsity},
    }
    recipe: Recipe = from_table(table, "hand")
    right = np.zeros(100, bool)
    right[: round(100 * accuracy)] = True
    outcome = Outcome(
        *(accuracy, None, 100, np.packbits(right).tobytes().hex()),
        *(recipe.method.sparsity, recipe.method.sparsity, 10, "0" * 64),
    )
    deployed = None
    if milliseconds is not None:
        times = tuple(
            Latency(runtime, 1, 1, factor * milliseconds, "measured")
            for runtime, factor in (("ort", 2.0), ("sparse", 1.0))
        )
        size = round(1000 * milliseconds)
        deployed = Deployed("host", size, size, size, times)
    return Row(f"{name}{seed}", recipe, "d", "0", outcome, Cost(1.0, 10**6), deployed)


def with_method(row: Row, **changes: Any) -> Row:
    """The row with another method."""
    method: MethodChoice = replace(row.recipe.method, **changes)
    return replace(row, recipe=replace(row.recipe, method=method))
