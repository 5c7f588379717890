"""The CUDA driver through cuda-bindings: how it is found, what its errors become."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from cuda.bindings.driver import CUresult

from prunedeploy import targets
from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.runtimes import cuda
from prunedeploy.runtimes.cuda import Device


@pytest.fixture(autouse=True)
def _driver_is_looked_for_anew() -> Iterator[None]:
    cuda.load_driver.cache_clear()
    yield
    cuda.load_driver.cache_clear()


@pytest.mark.parametrize("extra", ["tensorrt", "rtx"])
def test_without_the_package_the_extra_is_named(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtra, match=rf"pip install 'prunedeploy\[{extra}\]'"):
        Device(extra)


@pytest.mark.skipif(bool(targets.gpus()), reason="there is a GPU here")
def test_without_a_driver_or_a_gpu_it_is_one_line() -> None:
    with pytest.raises(UserError, match=r"no CUDA driver here|does not start"):
        Device("rtx")


def test_values_and_errors_of_the_driver() -> None:
    good = CUresult.CUDA_SUCCESS
    assert cuda.checked("cuCtxSetCurrent", (good,)) is None
    assert cuda.checked("cuMemAlloc", (good, 4096)) == 4096
    with pytest.raises(UserError, match="not enough memory left"):
        cuda.checked("cuMemAlloc", (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None))
    with pytest.raises(RuntimeError, match="cuMemcpyHtoDAsync: CUDA_ERROR_INVALID_VALUE"):
        cuda.checked("cuMemcpyHtoDAsync", (CUresult.CUDA_ERROR_INVALID_VALUE,))


@pytest.mark.gpu
def test_memory_of_a_gpu() -> None:
    """Up and down again, a buffer that grows, too much at once, closed twice."""
    if not targets.gpus():
        pytest.skip("there is no CUDA GPU here")
    sent = np.arange(1000, dtype=np.float32)
    with Device("tensorrt") as device:
        assert device.stream
        first = device.buffer("x", 16)
        assert device.buffer("x", 8) == first
        address = device.buffer("x", sent.nbytes)
        device.upload(address, sent)
        found = device.download(address, sent.shape, sent.dtype)
        device.wait()
        np.testing.assert_array_equal(found, sent)
        with pytest.raises(UserError, match="not enough memory left"):
            device.buffer("huge", 1 << 50)
    device.close()
