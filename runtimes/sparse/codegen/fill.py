"""Constants that a step needs in memory: copies from where the weights are."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.copy import copy
from prunedeploy.runtimes.sparse.codegen.views import nest
from prunedeploy.runtimes.sparse.plan.steps import Fill


def emit(step: Fill, context: Context) -> Code:
    """A copy of the value, broadcast to the shape of ``y``."""
    shape = (1,) * (len(step.y.shape) - step.value.ndim) + step.value.shape
    strides = [0 if size == 1 else math.prod(shape[axis + 1 :]) for axis, size in enumerate(shape)]
    value = context.constant(step.value.astype(np.float32))
    loops = nest(step.y.shape, (step.y.strides, strides))
    return copy(loops, value, context.pointer(step.y))
