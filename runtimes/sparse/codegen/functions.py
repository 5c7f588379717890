"""Functions of single elements in C: a call of what ``c/functions.h`` has for each operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunedeploy.runtimes.sparse.plan.steps import Instr

DEFAULTS: dict[str, tuple[float, ...]] = {"hardsigmoid": (1 / 6, 0.5)}  # where a plan says none
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
NAMES = {"max": "pd_maximum", "min": "pd_minimum", "where": "pd_choose"}  # the others: pd_<op>


def literal(number: float) -> str:
    """``number``, rounded to float32, in C, exactly."""
    if np.isnan(number):
        return '__builtin_nanf("")'
    if np.isinf(np.float32(number)):
        return "__builtin_inff()" if number > 0 else "(-__builtin_inff())"
    return f"{float(np.float32(number)).hex()}f"


def call(instr: Instr, operands: Sequence[str]) -> str:
    """C expression: ``instr`` of ``pd_vec`` expressions."""
    if instr.op == "identity":
        return operands[0]
    if instr.op in OPERATORS:
        return f"({operands[0]} {OPERATORS[instr.op]} {operands[1]})"
    numbers = instr.numbers or DEFAULTS.get(instr.op, ())
    arguments = ", ".join([*operands, *map(literal, numbers)])
    return f"{NAMES.get(instr.op, f'pd_{instr.op}')}({arguments})"
