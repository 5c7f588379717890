"""A layer's activation in C: two bounds, or a function of a vector."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.plan import Conv

CLAMPS = {"identity", "relu", "clip"}  # activations that are two bounds


def bounds(step: Conv) -> tuple[str, str]:
    """The activation's lower and upper bound in C; infinite where it has none."""
    infinity = "__builtin_inff()"
    match step.activation.op:
        case "relu":
            return "0", infinity
        case "clip":
            low, high = step.activation.numbers
            return literal(low), literal(high)
        case _:
            return f"-{infinity}", infinity


def literal(number: float) -> str:
    """``number`` in C, exactly."""
    if np.isinf(number):
        return "__builtin_inff()" if number > 0 else "-__builtin_inff()"
    return f"{float(np.float32(number)).hex()}f"


def act(step: Conv) -> str:
    """C expression for the activation of the vector ``v``, empty where bounds do."""
    if step.activation.op in CLAMPS:
        return ""
    from prunedeploy.runtimes.sparse.emit.functions import activation_call

    return activation_call(step.activation, "v")
