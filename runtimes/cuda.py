"""Memory and streams of a CUDA GPU through the driver's own library: nothing to install.

What is allocated belongs to a ``Device`` and goes with it, whatever happened in between.
"""

from __future__ import annotations

import ctypes
import functools
from types import TracebackType
from typing import Any

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array

OUT_OF_MEMORY = 2


@functools.cache
def _driver() -> Any:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise UserError("there is no CUDA driver here: open the engine on its GPU") from None
    if code := driver.cuInit(0):
        raise UserError(f"the CUDA driver does not start (error {code}): is there a GPU?")
    return driver


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code == OUT_OF_MEMORY:
        raise UserError("the GPU has not enough memory left: try a smaller batch")
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        reason = text.value.decode() if text.value else "unknown"
        raise RuntimeError(f"{name}: CUDA error {code}: {reason}")


class Device:
    """The primary context of one GPU, which TensorRT uses too, a stream, and buffers by name."""

    def __init__(self, index: int = 0) -> None:
        self._device = ctypes.c_int()
        _call("cuDeviceGet", ctypes.byref(self._device), index)
        self._context = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._stream = ctypes.c_void_p()
        self._buffers: dict[str, tuple[ctypes.c_uint64, int]] = {}
        self._open = True
        self.use()
        _call("cuStreamCreate", ctypes.byref(self._stream), 1)  # does not wait for the default one

    def use(self) -> None:
        """Make it the context of the calling thread."""
        _call("cuCtxSetCurrent", self._context)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.value or 0)

    def buffer(self, name: str, size: int) -> int:
        """The address of ``size`` bytes at least; the same memory while it is large enough."""
        address, have = self._buffers.get(name, (ctypes.c_uint64(), 0))
        if have < size:
            self._free(name)
            address = ctypes.c_uint64()
            _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
            self._buffers[name] = (address, size)
        return int(address.value)

    def upload(self, address: int, array: Array) -> None:
        """Copy to the GPU; ``array`` has to live until ``wait``."""
        pointer = ctypes.c_void_p(array.ctypes.data)
        size = ctypes.c_size_t(array.nbytes)
        _call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), pointer, size, self._stream)

    def download(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Copy from the GPU, complete after ``wait``."""
        array: Array = np.empty(shape, dtype)
        pointer = ctypes.c_void_p(array.ctypes.data)
        size = ctypes.c_size_t(array.nbytes)
        _call("cuMemcpyDtoHAsync_v2", pointer, ctypes.c_uint64(address), size, self._stream)
        return array

    def wait(self) -> None:
        """Until all of the stream is done."""
        _call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give everything back; safe to call again."""
        if not self._open:
            return
        self._open = False
        self.use()
        _driver().cuStreamSynchronize(self._stream)  # an error of a run was raised already
        for name in list(self._buffers):
            self._free(name)
        _driver().cuStreamDestroy_v2(self._stream)
        _driver().cuDevicePrimaryCtxRelease_v2(self._device)

    def _free(self, name: str) -> None:
        if (held := self._buffers.pop(name, None)) is not None:
            _driver().cuMemFree_v2(held[0])

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
