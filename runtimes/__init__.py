"""The runtimes, by name; each is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import cast

from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.api import Runtime

RUNTIMES: dict[str, str] = {
    "ort": "prunedeploy.runtimes.ort.cpu:Ort",
    "sparse": "prunedeploy.runtimes.sparse.engine:Sparse",
    "null": "prunedeploy.runtimes.null:Null",
    "ort-cuda": "prunedeploy.runtimes.ort.gpu:OrtCuda",
    "ort-tensorrt": "prunedeploy.runtimes.ort.gpu:OrtTensorRT",
    "tensorrt": "prunedeploy.runtimes.tensorrt.runtime:TensorRT",
    "tensorrt-rtx": "prunedeploy.runtimes.tensorrt.rtx:TensorRTRtx",
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
