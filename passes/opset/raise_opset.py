"""A model in a newer opset, for parsers that no longer read its own, computing the same.

onnx's version converter knows what each version changed. It copies whole models, so it is shown the
weights that it need not look at as inputs, and they are put back behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import preparation, shapes
from prunedeploy.graph.schemas import schema


@dataclass(frozen=True)
class RaiseOpset:
    """Write the model in ``opset`` where it is in an older one.

    Refuses, and changes nothing, where an operator has no form in ``opset``.
    """

    opset: int
    name: ClassVar[str] = "raise-opset"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        have = model.opset_imports.get("", 1)
        if have >= self.opset:
            return PassResult(False)
        try:
            proto = onnx.version_converter.convert_version(shapes.skeleton(model), self.opset)
        except Exception as error:  # of C++, of whatever kind
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"onnx cannot convert it from opset {have}: {lines[0]}"
            return PassResult(False, (Note("no-newer-form", "graph", "refused", reason, 1),))
        raised = preparation.from_proto(proto).model
        lost = [node for node in raised.graph.all_nodes() if self._is_unknown(node)]
        if lost:
            return PassResult(False, tuple(map(self._refusal, lost)))
        _restore_weights(raised, model)
        model.graph = raised.graph
        wanted_ir = int(onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", self.opset])
        model.ir_version = max(model.ir_version, wanted_ir)
        shapes.infer_shapes(model)
        reason = f"opset {have} written as {self.opset}"
        return PassResult(True, (Note("opset-raised", "graph", "taken", reason, 1),))

    def _is_unknown(self, node: ir.Node) -> bool:
        """Whether an operator is none of the newer opset: onnx lets such pass."""
        known = schema(node.op_type, self.opset)
        return not node.domain and (known is None or known.deprecated)

    def _refusal(self, node: ir.Node) -> Note:
        reason = f"{node.op_type} is no operator of opset {self.opset}"
        return Note("no-newer-form", node.name or node.op_type, "refused", reason, 1)


def _restore_weights(raised: ir.Model, model: ir.Model) -> None:
    """Make initializers again of the weights that were shown as inputs."""
    weights = model.graph.initializers
    for value in list(raised.graph.inputs):
        if (name := str(value.name)) in weights:
            raised.graph.inputs.remove(value)
            value.const_value = weights[name].const_value
            raised.graph.initializers.add(value)
