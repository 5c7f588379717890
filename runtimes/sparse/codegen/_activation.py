"""A layer's activation in C, two bounds or a function of a vector, and the kernels made for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prunedeploy.runtimes.sparse.codegen.functions import call, literal
from prunedeploy.runtimes.sparse.plan.steps import Conv, Instr


def bounds(step: Conv) -> tuple[str, str]:
    """The activation's lower and upper bound in C; infinite where it has none."""
    low, high = step.activation.bounds or (-math.inf, math.inf)
    return literal(low), literal(high)


def act(step: Conv) -> str:
    """C for the activation of the vector ``v``, of ``functions.h``; empty where bounds do."""
    applied = Instr(step.activation.op, (0,), step.activation.numbers)
    return "" if step.activation.bounds else call(applied, ["v"])


def instance(name: str, header: str, settings: Mapping[str, object], step: Conv) -> tuple[str, str]:
    """The full name of a kernel's instance, and the text that makes it."""
    lines = [f"#define PD_{key} {value}" for key, value in settings.items()]
    function = act(step)
    if function:
        numbers = "_".join(map(literal, step.activation.numbers)).replace("-", "m")
        name += f"_{step.activation.op}" + "".join(c if c.isalnum() else "_" for c in numbers)
        lines.append(f"#define PD_ACT(v) {function}")
    return name, "\n".join([f"#define PD_NAME {name}", *lines, f'#include "{header}"'])
