"""Runs emitted kernels in the PTX machine, every tensor in a buffer of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.gpu.ptx import HEADER
from prunedeploy.runtimes.sparse.plan.steps import Plan
from ptx.arithmetic import Values
from ptx.machine import launch
from ptx.memory import Device
from ptx.parse import parse


def run_kernels(
    plan: Plan, kernels: Sequence[Kernel], constants: bytes, feeds: Mapping[str, Array]
) -> dict[str, Values]:
    """Every output of ``plan`` by name, computed by ``kernels`` one after the other.

    Raises:
        PtxError: a kernel does what it must not.
    """
    device = Device()
    fed = {port.buffer: feeds[port.name] for port in plan.inputs}
    base = device.allocate(max(len(constants), 4))
    device.upload(base, np.frombuffer(constants, np.uint8))
    buffers = []
    for index, buffer in enumerate(plan.buffers):
        buffers.append(device.allocate(4 * buffer.size))
        value = fed.get(index, buffer.value)
        if value is not None:
            device.upload(buffers[-1], np.asarray(value, np.float32))
    for kernel in kernels:
        arguments = [
            base + each if isinstance(each, int) else buffers[each.buffer] + 4 * each.offset
            for each in kernel.arguments
        ]
        entry = parse(HEADER + kernel.text)[kernel.name]
        launch(device, entry, kernel.grid, kernel.block, arguments)
    return {port.name: device.download(buffers[port.buffer], port.shape) for port in plan.outputs}
