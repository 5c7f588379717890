"""Layers and schedules that each kernel of the table is tested on; one row adds a case."""

from __future__ import annotations

from convs import ACTIVATIONS, Layer

from prunedeploy.runtimes.sparse.schedule.schedule import Schedule

RELU, SILU, SAME = ACTIVATIONS[1], ACTIVATIONS[8], (1, 1, 1, 1)

CASES: dict[str, tuple[tuple[Layer, Schedule], ...]] = {
    "jit": (
        (Layer((1, 20, 4, 16), 33, activation=RELU), Schedule("jit", 1, 4, 20, rows=17)),
        (
            Layer((1, 12, 6, 6), 9, (3, 3), pads=SAME, density=0.5),
            Schedule("jit", 6, 6, 12, packing="shared_border", rows=9),
        ),
    ),
    "mixed": (
        (
            Layer((1, 24, 5, 7), 20, density=0.6, residual="own"),
            Schedule("mixed", 1, 2, 24, rows=4, fill=0.6),
        ),
        (
            Layer((2, 6, 5, 7), 17, (3, 3), pads=SAME, density=0.5, activation=SILU),
            Schedule("mixed", 2, 1, 5, 2, rows=6, fill=0.6),
        ),
    ),
    "winograd": (
        (
            Layer((1, 9, 13, 12), 7, (3, 3), pads=SAME, density=1.0, activation=RELU),
            Schedule("winograd", 2, 2, 9, rows=3),
        ),
        (
            Layer((1, 5, 16, 9), 8, (3, 3), pads=SAME, density=1.0, residual="own"),
            Schedule("winograd", 4, 2, 3, 2, rows=2),
        ),
    ),
    "rows": (
        (Layer((1, 67, 9, 9), 13, activation=RELU), Schedule("rows", 1, 3, 40, 2)),
        (
            Layer((2, 7, 6, 11), 9, (3, 3), (2, 2), SAME, residual="in place"),
            Schedule("rows", 2, 1, 4),
        ),
        (Layer((3, 11, 5, 23), 6, (1, 5), pads=(0, 2, 0, 2)), Schedule("rows", 2, 3, 6)),
    ),
    "block": (
        (Layer((1, 19, 7, 7), 13, density=1.0, residual="own"), Schedule("block", 1, 2, 9, rows=4)),
        (
            Layer((1, 5, 9, 14), 10, (3, 3), pads=SAME, density=0.9, activation=SILU),
            Schedule("block", 2, 2, 5, 2, rows=6),
        ),
    ),
    "winograd2d": (
        (
            Layer((1, 6, 9, 12), 10, (3, 3), pads=SAME, density=1.0, activation=RELU),
            Schedule("winograd2d", 2, 2, 6, rows=4),
        ),
        (
            Layer((2, 5, 13, 10), 7, (3, 3), pads=SAME, density=1.0, residual="own"),
            Schedule("winograd2d", 4, 2, 5, 2, rows=6),
        ),
    ),
}
