"""The engine inspector's JSON, of any version, as a report of one row a layer.

TensorRT 8 and 10 list the engine's inputs and outputs as names under ``Bindings`` and write format
and type of a tensor in one phrase; 11 has objects under ``I/O Tensors`` and two fields. An engine
that was built without details has layers that are names alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunedeploy.core.errors import UserError

# words for a type, the first that is found counts: "Row major linear FP16 format", "Half"
TYPES = (
    (r"BF16|BFloat16", "bfloat16"),
    (r"FP8", "float8"),
    (r"FP4", "float4"),
    (r"FP16|Half", "float16"),
    (r"FP32|Float", "float32"),
    (r"INT8|Int8", "int8"),
    (r"INT4|Int4", "int4"),
    (r"INT32|Int32", "int32"),
    (r"INT64|Int64", "int64"),
    (r"BOOL|Bool", "bool"),
)


@dataclass(frozen=True)
class TrtTensor:
    """A tensor that a layer reads or writes; ``type`` is empty where the report has none."""

    name: str
    shape: tuple[int, ...]
    type: str
    format: str


@dataclass(frozen=True)
class TrtLayer:
    """One layer of a built engine, of several nodes of the model, as a rule.

    ``sparse`` says that the chosen kernel takes 2:4 weights, ``median_ms`` what a profile found,
    0 without one.
    """

    name: str
    kind: str = ""
    inputs: tuple[TrtTensor, ...] = ()
    outputs: tuple[TrtTensor, ...] = ()
    tactic: str = ""
    nodes: tuple[str, ...] = ()
    sparse: bool = False
    median_ms: float = 0.0

    @property
    def precision(self) -> str:
        """The type of its first output."""
        return self.outputs[0].type if self.outputs else ""


def read_layers(text: str, profile: str = "") -> tuple[TrtLayer, ...]:
    """The layers of an engine.

    Args:
        text: JSON of the inspector, or of trtexec's --exportLayerInfo.
        profile: JSON of trtexec's --exportProfile, for the times.

    Raises:
        UserError: it is no such JSON.
    """
    data = _json(text, "layers")
    layers = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(layers, list):
        raise UserError("this is no report of TensorRT's inspector: it has no Layers")
    times = _times(profile) if profile else {}
    return tuple(_layer(each, times) for each in layers)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"TensorRT's {what} are no JSON: {error}") from None


def _layer(each: Any, times: Mapping[str, float]) -> TrtLayer:
    if isinstance(each, str):
        return TrtLayer(each, median_ms=times.get(each, 0.0))
    name, tactic = str(each.get("Name", "")), str(each.get("TacticName", ""))
    return TrtLayer(
        name=name,
        kind=str(each.get("ParameterType") or each.get("LayerType") or ""),
        inputs=_tensors(each.get("Inputs", ())),
        outputs=_tensors(each.get("Outputs", ())),
        tactic=tactic,
        nodes=_nodes(str(each.get("Metadata", ""))),
        sparse="_sp_" in tactic or "sparse" in tactic.lower(),
        median_ms=times.get(name, 0.0),
    )


def _tensors(entries: Sequence[Mapping[str, Any]]) -> tuple[TrtTensor, ...]:
    return tuple(
        TrtTensor(
            name=str(each.get("Name", "")),
            shape=tuple(int(size) for size in each.get("Dimensions", ())),
            type=_type(each),
            format=str(each.get("Format/Datatype") or each.get("Format") or ""),
        )
        for each in entries
    )


def _type(tensor: Mapping[str, Any]) -> str:
    keys = ("DataType", "Datatype", "Format/Datatype", "Format")
    phrase = next((str(tensor[key]) for key in keys if tensor.get(key)), "")
    return next((name for words, name in TYPES if re.search(words, phrase)), "")


def _nodes(metadata: str) -> tuple[str, ...]:
    """The model's nodes: "[ONNX Layer: /conv1/Conv]" once for each, after a separator."""
    return tuple(name.strip() for name in re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata))


def _times(profile: str) -> dict[str, float]:
    data = _json(profile, "times")
    if not isinstance(data, list):
        raise UserError("this is no profile of trtexec: it is no list")
    rows = [row for row in data if isinstance(row, dict) and "name" in row]
    # medianMs is there from 8.2 on; before there was the mean alone
    return {str(x["name"]): float(x.get("medianMs") or x.get("averageMs") or 0) for x in rows}
