"""Interpolation: the sources and weights of rows and columns as constants."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import plane_strides, record
from prunedeploy.runtimes.sparse.plan.steps import Resize
from prunedeploy.runtimes.sparse.plan.views import UNIT


def emit(step: Resize, context: Context) -> Code:
    """One call; scratch holds a row that two are mixed to."""
    x, y = step.x, step.y
    fields: dict[str, object] = {
        "images": x.shape[0],
        "channels": x.shape[1],
        "width": x.shape[3],
        "out_height": y.shape[2],
        "out_width": y.shape[3],
        "nearest": int(all(weight == 0 for _, _, weight in step.columns)),
        **plane_strides(x, y),
    }
    for name, taps in (("row", step.rows), ("column", step.columns)):
        sources = np.array([[tap[n] for tap in taps] for n in (0, 1)], np.int32)
        weights = np.array([tap[2] for tap in taps], np.float32)
        fields[name] = context.constant(sources)
        fields[f"{name}_weight"] = context.constant(weights)
    body = (
        f"const pd_resize r = {record(fields)};\n"
        f"pd_resize_planes(w, &r, {context.pointer(x)}, {context.pointer(y)});"
    )
    return Code(body, (), ("resize.h",), -(-x.shape[3] // UNIT) * UNIT)
