"""Memory and streams of a CUDA GPU, through NVIDIA's binding of the driver (``cuda-bindings``).

What a ``Device`` allocates goes with it, whatever happened in between.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Array
from prunedeploy.runtimes.api import Closing


@functools.cache
def load_driver(extra: str) -> Any:
    """The module ``cuda.bindings.driver``, initialised.

    Args:
        extra: the extra of prunedeploy that brings the package, for the message.

    Raises:
        MissingExtra: the package is not installed.
        UserError: the machine has no CUDA driver, or the driver finds no GPU.
    """
    try:
        from cuda.bindings import driver
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cuda":
            raise
        raise MissingExtra("cuda-bindings", extra) from None
    try:
        (code,) = driver.cuInit(0)
    except RuntimeError:  # it found no libcuda
        raise UserError("there is no CUDA driver here: open the engine on its GPU") from None
    if code:
        raise UserError(f"the CUDA driver does not start ({code.name}): is there a GPU?")
    return driver


def checked(name: str, result: tuple[Any, ...]) -> Any:
    """The value that a function of the driver gave, None where it gives none.

    Args:
        name: of the function, for the message.
        result: its ``CUresult``, and the value behind it.

    Raises:
        UserError: the GPU's memory is full.
        RuntimeError: any other error.
    """
    code, *values = result
    if code.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise UserError("the GPU has not enough memory left: try a smaller batch")
    if code:
        raise RuntimeError(f"{name}: {code.name}")
    return values[0] if values else None


class Device(Closing):
    """The primary context of one GPU, which TensorRT uses too, a stream, and buffers by name.

    Args:
        extra: the extra of prunedeploy that brings ``cuda-bindings``.
        index: the GPU's number.
    """

    def __init__(self, extra: str, index: int = 0) -> None:
        self._driver = load_driver(extra)
        self._device = self._call("cuDeviceGet", index)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._buffers: dict[str, tuple[Any, int]] = {}
        self._open = True
        self.use()
        not_default = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = self._call("cuStreamCreate", int(not_default))

    def _call(self, name: str, *arguments: Any) -> Any:
        return checked(name, getattr(self._driver, name)(*arguments))

    def use(self) -> None:
        """Make it the context of the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def buffer(self, name: str, size: int) -> int:
        """The address of ``size`` bytes at least; the same memory while it is large enough."""
        address, have = self._buffers.get(name, (0, 0))
        if have < size:
            self._free(name)
            address = self._call("cuMemAlloc", max(size, 1))
            self._buffers[name] = (address, size)
        return int(address)

    def upload(self, address: int, array: Array) -> None:
        """Copy to the GPU; ``array`` has to live until ``wait``."""
        source = array.ctypes.data
        self._call("cuMemcpyHtoDAsync", address, source, array.nbytes, self._stream)

    def download(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Copy from the GPU, complete after ``wait``."""
        array: Array = np.empty(shape, dtype)
        target = array.ctypes.data
        self._call("cuMemcpyDtoHAsync", target, address, array.nbytes, self._stream)
        return array

    def wait(self) -> None:
        """Wait until all of the stream is done."""
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give everything back; safe to call again."""
        if not self._open:
            return
        self._open = False
        self.use()
        self._driver.cuStreamSynchronize(self._stream)  # an error of a run was raised already
        for name in list(self._buffers):
            self._free(name)
        self._driver.cuStreamDestroy(self._stream)
        self._driver.cuDevicePrimaryCtxRelease(self._device)

    def _free(self, name: str) -> None:
        if (held := self._buffers.pop(name, None)) is not None:
            self._driver.cuMemFree(held[0])
