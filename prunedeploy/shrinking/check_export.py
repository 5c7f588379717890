"""Whether an exported model computes what the module computes, on the example inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from prunedeploy.core.errors import UnknownOperatorError, UserError
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.examples import Call
from prunedeploy.shrinking.export import outputs_of

if TYPE_CHECKING:
    from torch import nn


def check_export(program: ir.Model, module: nn.Module, call: Call) -> None:
    """Hold the export of ``module`` against the module itself.

    An exporter that took a hook or a branch for something else would otherwise go unnoticed: all
    later comparisons are with the exported model. A model that the reference does not know is left
    to these.

    Raises:
        UserError: the two differ, or the module gives tensors that the model does not.
    """
    try:
        evaluator = Evaluator(program)
    except UnknownOperatorError:
        return
    names = [spec.name for spec in evaluator.inputs]
    feeds = {name: x.numpy() for name, x in zip(call.names(module), call.tensors, strict=True)}
    outputs = evaluator.run({name: feeds[name] for name in names})
    tensors = outputs_of(module, call)
    if len(tensors) != len(outputs):
        raise UserError(
            f"torch exported {len(outputs)} outputs of {len(tensors)}: let forward return tensors"
        )
    wanted = {name: x.numpy() for name, x in zip(outputs, tensors, strict=True)}
    difference = verify.compare(wanted, outputs, verify.tolerances_of(program))
    if not difference.passed:
        raise UserError(
            f"torch exported another network than the module computes: {difference.where} differs "
            f"by {difference.max_rel:.2g} of its range; look for hooks and for branches on values"
        )
