"""Methods that train: each from its paper, one file a method.

``METHODS[name].run(trainer, settings)`` trains ``trainer.module``, several times where the method
says so, and leaves it trained, with its masks applied to plain weights.

Example:
    >>> from prunedeploy.sparsify.methods import METHODS, MethodSettings
    >>> METHODS["imp"].kind, METHODS["str_bn"].kind
    ('scattered', 'channels')
"""

from __future__ import annotations

from prunedeploy.sparsify.methods import (
    crop,
    cropit,
    dense,
    early_bird,
    earlycrop,
    efficient_convnets,
    gate_decorators,
    gradual,
    grasp,
    imp,
    ltr,
    omp,
    random_,
    refill,
    regroup,
    slimming,
    snap,
    snip,
    str_,
    str_bn,
    ticket,
)
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings

__all__ = ["METHODS", "Method", "MethodReport", "MethodSettings"]

_MODULES = (
    dense,
    omp,
    imp,
    ltr,
    gradual,
    random_,
    snip,
    snap,
    grasp,
    crop,
    cropit,
    earlycrop,
    early_bird,
    gate_decorators,
    efficient_convnets,
    slimming,
    refill,
    regroup,
    str_,
    str_bn,
    ticket,
)

METHODS: dict[str, Method] = {
    method.name: method for module in _MODULES for method in module.METHODS
}
