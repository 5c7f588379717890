"""The recurrent kernel: one sample and many, sparse and dense, in every cell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernels import Case, Memory, check, check_with, supported

from prunedeploy.runtimes.sparse.plan.steps import Activation, Recurrence

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")
FUNCTIONS = {
    "lstm": (SIGMOID, TANH, TANH),
    "gru": (SIGMOID, TANH),
    "rnn": (Activation("leakyrelu", (0.1,)),),
}


def recurrence(
    kind: str, batch: int, units: int, backward: tuple[bool, ...], density: float, states: bool
) -> Case:
    rng, memory, length = np.random.default_rng(units), Memory(), 4
    sides, rows = len(backward), GATES[kind] * units
    weight = rng.standard_normal((sides, rows, units)) / np.sqrt(units)
    weight = (weight * (rng.random(weight.shape) < density)).astype(np.float32)
    if batch % 2:  # of bfloat16, which are stored in two bytes for one sample
        weight = (weight.view(np.uint32) & 0xFFFF0000).view(np.float32)
    x = memory.rows((length, sides * rows, batch))
    y = memory.rows((length + (kind == "lstm"), sides, units, batch))
    given = [memory.rows((sides, units, batch)) for _ in range(2 if states else 0)]
    hidden, cell = [*given, None, None][:2]
    bias = None
    if kind == "gru" and states:
        bias = rng.standard_normal((sides, units)).astype(np.float32)
    step = Recurrence(
        "layer", x, y, kind, weight, backward, FUNCTIONS[kind],  # type: ignore[arg-type]
        hidden, cell if kind == "lstm" else None, bias,
    )  # fmt: skip
    return memory.case(step, tolerance=1e-5)


def sweep() -> list[Case]:
    """What the kernel is swept over, also under sanitizers."""
    cases = []
    forms = itertools.cycle([(0.1, (False,)), (0.9, (True,)), (0.3, (False, True))])
    sizes = [(1, 7), (1, 33), (3, 5), (9, 20), (40, 6), (67, 3), (1, 1)]
    for kind, (batch, units) in itertools.product(GATES, sizes):
        density, backward = next(forms)
        cases.append(recurrence(kind, batch, units, backward, density, states=batch % 4 != 3))
    return cases


@pytest.mark.parametrize("isa", supported())
def test_recurrent_layers_agree_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


@pytest.mark.slow
def test_recurrent_layers_for_neon() -> None:
    import emulated

    if emulated.MISSING:
        pytest.skip(emulated.MISSING)
    check_with(emulated.Emulated(sweep()[::2]))
