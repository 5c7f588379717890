"""Operators of ``ai.onnx.ml``, by the implementation that onnx brings along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from prunedeploy.core.errors import UnknownOperatorError
from prunedeploy.graph.schemas import schema
from prunedeploy.reference.registry import label

DOMAIN = "ai.onnx.ml"
NEWEST = 5  # its own opset, as far as it is known here

# operator -> its versions whose results are those of ONNX Runtime
VERSIONS: dict[str, tuple[int, ...]] = {
    "ArrayFeatureExtractor": (1,),
    "Binarizer": (1,),
    "FeatureVectorizer": (1,),
    "Imputer": (1,),
    "LabelEncoder": (2, 4),
    "LinearRegressor": (1,),
    "OneHotEncoder": (1,),
    "Scaler": (1,),
    "TreeEnsembleRegressor": (1, 3),
}


def step_of(
    node: ir.Node, opsets: Mapping[str, int]
) -> Callable[[list[Any], Mapping[str, Any]], list[Any]]:
    """How a node outside of the standard domain is computed.

    Raises:
        UnknownOperatorError: it is of another domain, or not known in this opset of its own.
    """
    version = opsets.get(node.domain, 0)
    known = VERSIONS.get(node.op_type, ()) if node.domain == DOMAIN else ()
    if not known:
        raise _unknown(node, "")
    definition = schema(node.op_type, version, DOMAIN)
    if definition is None or definition.since_version not in known or version > NEWEST:
        raise _unknown(node, f" of {DOMAIN} {version}")
    names = [f"in{i}" if value is not None else "" for i, value in enumerate(node.inputs)]
    call = ir.serde.serialize_node(node)
    del call.input[:]
    call.input.extend(names)
    untyped, info = onnx.TypeProto(), onnx.helper.make_value_info
    graph = onnx.helper.make_graph(
        [call],
        node.op_type,
        [info(name, untyped) for name in names if name],
        [info(name, untyped) for name in call.output if name],
    )
    imports = [onnx.helper.make_opsetid(*item) for item in opsets.items()]
    run = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports)).run

    def step(inputs: list[Any], _: Mapping[str, Any]) -> list[Any]:
        feeds = {name: x for name, x in zip(names, inputs, strict=True) if name}
        return list(run(None, feeds))

    return step


# What to do about an operator of a domain that begins so; the first one that fits.
ADVICE: dict[str, str] = {
    "com.microsoft.extensions": "take the network without the steps before and behind it, which "
    "onnxruntime-extensions adds",
    "ai.onnx.contrib": "take the network without the operators of onnxruntime-extensions",
    "com.microsoft": "take the network as it was before ONNX Runtime optimised or quantised it, or "
    "build with --runtime ort",
    DOMAIN: "build with --runtime ort, which checks it against ONNX Runtime itself",
    "": "write the network in operators of ONNX alone",
}


def _unknown(node: ir.Node, what: str) -> UnknownOperatorError:
    advice = next(text for domain, text in ADVICE.items() if node.domain.startswith(domain))
    return UnknownOperatorError(
        f"{label(node)}{what} is unknown, so what the model computes cannot be checked: {advice}"
    )
