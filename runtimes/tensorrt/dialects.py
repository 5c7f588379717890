"""What follows from a generation of TensorRT (``targets/tensorrt.py``): flags and command lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from prunedeploy.targets.tensorrt import Dialect


def flags(row: Dialect, *, float16: bool, sparse: bool, refit: bool = False) -> tuple[str, ...]:
    """The builder's flags to set.

    Args:
        row: the generation.
        float16: the model computes in float16.
        sparse: its weights are 2:4 sparse and the GPU has tensor cores for it.
        refit: weights are to be exchangeable later.
    """
    found: list[str] = []
    if float16 and row.typed == "never":
        found += ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    if sparse:
        found.append("SPARSE_WEIGHTS")
    if refit:
        found.append("REFIT")
    return tuple(found)


def trtexec_arguments(
    row: Dialect,
    model: str,
    plan: str,
    *,
    float16: bool = False,
    sparse: bool = False,
    shapes: Mapping[str, Sequence[Sequence[int]]] | None = None,
    workspace: int = 0,
    timing_cache: str = "",
    times: str = "",
    profile: str = "",
    layers: str = "",
) -> list[str]:
    """trtexec's arguments for the same in this generation's words.

    Args:
        row: the generation.
        model: the ONNX file.
        plan: the file to write.
        float16: compute in float16, where a flag has to say so.
        sparse: use 2:4 sparse weights.
        shapes: of each input: at least, mostly, at most.
        workspace: scratch memory in MiB, 0 for the default.
        timing_cache: a file to keep measurements of kernels in.
        times: a JSON file for the time of every run.
        profile: a JSON file for the time of every layer.
        layers: a JSON file for what every layer is.
    """
    found = [f"--onnx={model}", f"--saveEngine={plan}"]
    if float16 and row.typed == "never":
        found.append("--fp16")
    if row.typed == "on request":
        found.append("--stronglyTyped")
    if sparse:
        found.append("--sparsity=enable")
    for index, bound in enumerate(("min", "opt", "max")):
        if shapes:
            given = (f"{name}:{'x'.join(map(str, x[index]))}" for name, x in shapes.items())
            found.append(f"--{bound}Shapes={','.join(given)}")
    if workspace:
        found.append(f"{row.workspace}{workspace}")
    if timing_cache:
        found.append(f"--timingCacheFile={timing_cache}")
    if times:
        found.append(f"--exportTimes={times}")
    if profile:
        found += [f"--exportProfile={profile}", "--separateProfileRun"]
    if layers:
        found += [f"--exportLayerInfo={layers}", "--profilingVerbosity=detailed"]
    return found


def network_flag(row: Dialect, library: Any) -> int:
    """What ``create_network`` takes, of the flags that this library still has."""
    kind = library.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(kind, name)) for name in row.network_flags if hasattr(kind, name))


def two_four_layers(model: ir.Model) -> tuple[str, ...]:
    """Layers whose weights are 2:4 sparse throughout along what they sum over."""
    from prunedeploy.graph.layers import node_layer

    found = (node_layer(node) for node in model.graph)
    return tuple(
        each.name
        for each in found
        if each is not None and each.pattern.two_four == 1.0 and each.pattern.nonzero
    )


def has_float16(model: ir.Model) -> bool:
    """Whether some node computes in float16."""
    return any(v.dtype == ir.DataType.FLOAT16 for node in model.graph for v in node.outputs)
