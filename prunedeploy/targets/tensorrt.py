"""Generations of TensorRT: what their parsers read and what their interfaces are like.

TensorRT 8.2, the one of Jetson Nano, runs under Python 3.6 only: it is reached through command
lines of trtexec, which a device bundle carries; the others through their Python interface too.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.core.errors import UserError


@dataclass(frozen=True)
class Dialect:
    """One generation of TensorRT.

    Args:
        since: the first version of it.
        opset: the newest opset that its parser reads.
        ir_version: the newest version of ONNX files, that of the release of ONNX in its parser.
        typed: whether the network computes in the types of the model ("always", "on request"), or
            in float32 unless flags allow more ("never").
        names: whether inputs and outputs go by name, which sessions need, or by position.
        workspace: trtexec's option for scratch memory in MiB, up to the number.
        capabilities: the oldest and the newest compute capability that it has kernels for.
        network_flags: names of the flags to create a network with.
    """

    since: tuple[int, int]
    opset: int
    ir_version: int
    typed: str
    names: bool
    workspace: str
    capabilities: tuple[float, float]
    network_flags: tuple[str, ...] = ()


POOL = "--memPoolSize=workspace:"
EXPLICIT, TYPED = ("EXPLICIT_BATCH",), ("STRONGLY_TYPED",)

DIALECTS: tuple[Dialect, ...] = (
    Dialect((8, 2), 13, 7, "never", False, "--workspace=", (5.0, 8.7), EXPLICIT),
    Dialect((8, 4), 16, 8, "never", False, POOL, (5.0, 8.7), EXPLICIT),
    Dialect((8, 5), 17, 8, "never", True, POOL, (5.0, 9.0), EXPLICIT),
    # IR 9 is what is certain of 10.0; onnx-tensorrt's changelog has ONNX 1.17, IR 10, from 10.6 on
    Dialect((10, 0), 20, 9, "on request", True, POOL, (7.0, 12.1), TYPED),
    Dialect((10, 5), 20, 9, "on request", True, POOL, (7.5, 12.1), TYPED),
    Dialect((10, 6), 20, 10, "on request", True, POOL, (7.5, 12.1), TYPED),
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
    known = [row for row in DIALECTS if row.since <= (major, minor)]
    if not known:
        raise UserError(f"TensorRT {version} is too old: 8.2 is the oldest that can be used")
    return known[-1]
