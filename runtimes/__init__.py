"""The runtimes, by name; each is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import cast

from prunedeploy.errors import UserError
from prunedeploy.runtimes._runtime import Runtime

RUNTIMES: dict[str, str] = {
    "ort": "prunedeploy.runtimes.ort:Ort",
    "sparse": "prunedeploy.runtimes.sparse.engine:Sparse",
    "null": "prunedeploy.runtimes.null:Null",
    "ort-cuda": "prunedeploy.runtimes.ort_gpu:OrtCuda",
    "ort-tensorrt": "prunedeploy.runtimes.ort_gpu:OrtTensorRT",
    "tensorrt": "prunedeploy.runtimes.tensorrt:TensorRT",
    "tensorrt-rtx": "prunedeploy.runtimes.tensorrt_rtx:TensorRTRtx",
}


def by_name(name: str) -> Runtime:
    """The runtime called ``name``.

    Raises:
        UserError: there is none of that name.
    """
    if name not in RUNTIMES:
        raise UserError(
            f"there is no runtime {name!r} yet: choose from auto, {', '.join(RUNTIMES)}"
        )
    module, _, attribute = RUNTIMES[name].partition(":")
    return cast(Runtime, getattr(importlib.import_module(module), attribute)())
