"""Steps to C: which module writes which kind of step."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.plan import quantised
from prunedeploy.runtimes.sparse.plan import steps as plan

Emitter = Callable[[Any, Context], Code]

EMITTERS: dict[type, str] = {
    plan.Conv: "conv",
    plan.Map: "elementwise",
    plan.Copy: "copy",
    plan.Pool: "pool",
    plan.Reduce: "reduce",
    plan.Softmax: "softmax",
    plan.Norm: "norm",
    plan.MatMul: "matmul",
    plan.Lookup: "lookup",
    plan.Take: "take",
    plan.Top: "top",
    plan.Resize: "resize",
    plan.Recurrence: "recurrent",
    plan.Fill: "fill",
    quantised.Quantise: "quantise",
    quantised.Dequantise: "quantise",
    quantised.Add8: "quantise",
    quantised.Conv8: "conv8",
    quantised.Pool8: "pool8",
    quantised.Unfold: "pool8",
}


def emitter(step: plan.Step) -> Emitter:
    """The function that writes ``step``; its module is imported when it is first used.

    A step that writes nothing needs no code.
    """
    if not any(view.size for view in plan.writes(step)):
        return lambda *_: Code("")
    module = importlib.import_module(f"{__name__}.{EMITTERS[type(step)]}")
    return cast(Emitter, module.emit)
