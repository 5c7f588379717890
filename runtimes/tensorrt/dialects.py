"""What differs between versions of TensorRT: one row a generation, and what follows from a row.

TensorRT 8.2, the one of Jetson Nano, runs under Python 3.6 only: from here it is reached through
the command lines of ``trtexec_arguments``, which a device bundle carries; the others through their
Python interface too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from prunedeploy.core.errors import UserError


@dataclass(frozen=True)
class Dialect:
    """One generation.

    ``typed``: the network computes in the types of the model ("always", "on request"), or in
    float32 unless flags allow more ("never"). ``names``: inputs and outputs go by name, not by
    position, which is what our sessions speak.
    """

    since: tuple[int, int]
    opset: int
    ir_version: int
    typed: str
    names: bool
    workspace: str  # trtexec's option for scratch memory in MiB, up to the number
    capabilities: tuple[float, float]  # the oldest and the newest that it has kernels for
    network_flags: tuple[str, ...] = ()


POOL = "--memPoolSize=workspace:"
EXPLICIT, TYPED = ("EXPLICIT_BATCH",), ("STRONGLY_TYPED",)

DIALECTS: tuple[Dialect, ...] = (
    Dialect((8, 2), 13, 7, "never", False, "--workspace=", (5.0, 8.7), EXPLICIT),
    Dialect((8, 4), 16, 8, "never", False, POOL, (5.0, 8.7), EXPLICIT),
    Dialect((8, 5), 17, 8, "never", True, POOL, (5.0, 9.0), EXPLICIT),
    Dialect((10, 0), 20, 10, "on request", True, POOL, (7.0, 12.1), TYPED),
    Dialect((10, 5), 20, 10, "on request", True, POOL, (7.5, 12.1), TYPED),
    Dialect((11, 0), 25, 12, "always", True, POOL, (7.5, 12.1), TYPED),
)


def dialect(version: str) -> Dialect:
    """The generation of a version such as "10.16.1.11".

    Raises:
        UserError: it is older than 8.2, or no version.
    """
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        raise UserError(f"{version!r} is no version of TensorRT: give one like 8.2.1") from None
    found = [row for row in DIALECTS if row.since <= (major, minor)]
    if not found:
        raise UserError(f"TensorRT {version} is too old: 8.2 is the oldest that can be used")
    return found[-1]


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
