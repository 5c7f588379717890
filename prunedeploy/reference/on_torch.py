"""Kernels that are functions of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference.table import Kernel, Numbers

if TYPE_CHECKING:
    import torch

    from prunedeploy.reference.torch_kernels import TorchKernel


def tensor(array: Any) -> torch.Tensor | None:
    """A torch tensor over the array's memory; a copy only where torch needs one."""
    import torch

    if array is None:
        return None
    array = np.ascontiguousarray(array)
    # negative strides, which an axis of length one may still have, and read-only buffers
    usable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if usable else array.copy())


def on_torch(kernel: TorchKernel) -> Kernel:
    """The function on NumPy arrays, None where torch does not know the form."""

    def run(node: ir.Node, *inputs: Any) -> Numbers | None:
        import torch

        with torch.no_grad():
            result = kernel(node, *map(tensor, inputs))
        return None if result is None else result.contiguous().numpy()

    return run
