"""A layer's activation in C, two bounds or a function of a vector, and the kernels made for it."""

from __future__ import annotations

from collections.abc import Mapping

from prunedeploy.runtimes.sparse.emit.functions import activation_call, literal
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


def act(step: Conv) -> str:
    """C expression for the activation of the vector ``v``, empty where bounds do."""
    return "" if step.activation.op in CLAMPS else activation_call(step.activation, "v")


def instance(name: str, header: str, settings: Mapping[str, object], step: Conv) -> tuple[str, str]:
    """The full name of a kernel's instance, and the text that makes it."""
    lines = [f"#define PD_{key} {value}" for key, value in settings.items()]
    function = act(step)
    if function:
        numbers = "_".join(map(literal, step.activation.numbers)).replace("-", "m")
        name += f"_{step.activation.op}" + "".join(c if c.isalnum() else "_" for c in numbers)
        lines.append(f"#define PD_ACT(v) {function}")
    return name, "\n".join([f"#define PD_NAME {name}", *lines, f'#include "{header}"'])
