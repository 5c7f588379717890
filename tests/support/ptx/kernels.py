"""Runs emitted kernels in the PTX machine, every tensor in a buffer of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.gpu.launch import Argument, ErrorWord, Kernel
from prunedeploy.runtimes.sparse.gpu.ptx import HEADER
from prunedeploy.runtimes.sparse.plan.steps import Plan
from ptx.arithmetic import Values
from ptx.machine import launch
from ptx.memory import Device
from ptx.parse import PtxError, parse


def run_kernels(
    plan: Plan, kernels: Sequence[Kernel], constants: bytes, feeds: Mapping[str, Array]
) -> dict[str, Values]:
    """Every output of ``plan`` by name, computed by ``kernels`` one after the other.

    Raises:
        PtxError: a kernel does what it must not, or notes an error.
    """
    device = Device()
    fed = {port.buffer: feeds[port.name] for port in plan.inputs}
    base = device.allocate(max(len(constants), 4))
    device.upload(base, np.frombuffer(constants, np.uint8))
    buffers = []
    for index, buffer in enumerate(plan.buffers):
        buffers.append(device.allocate(np.dtype(buffer.dtype).itemsize * buffer.size))
        value = fed.get(index, buffer.value)
        if value is not None:
            device.upload(buffers[-1], np.asarray(value, buffer.dtype))
    error = device.allocate(4)
    device.upload(error, np.zeros(1, np.uint32))

    def address(argument: Argument) -> int:
        if isinstance(argument, ErrorWord):
            return error
        if isinstance(argument, int):
            return base + argument
        dtype = plan.buffers[argument.buffer].dtype
        return buffers[argument.buffer] + np.dtype(dtype).itemsize * argument.offset

    for kernel in kernels:
        arguments = [address(each) for each in kernel.arguments]
        entry = parse(HEADER + kernel.text)[kernel.name]
        launch(device, entry, kernel.grid, kernel.block, arguments)
    if code := int(device.download(error, (1,), np.uint32)[0]):
        raise PtxError(f"the kernels note error {code}")
    return {
        port.name: device.download(buffers[port.buffer], port.shape, port.dtype)
        for port in plan.outputs
    }
