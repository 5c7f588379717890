"""The runtimes by name, each imported when it is first used, and why a target cannot have one."""

from __future__ import annotations

import importlib
from typing import cast

from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.api import Runtime
from prunedeploy.targets import Target, why_not_here
from prunedeploy.targets.gpu import is_for_gpu

RUNTIMES: dict[str, str] = {
    "ort": "prunedeploy.runtimes.ort.cpu:Ort",
    "sparse": "prunedeploy.runtimes.sparse.engine:Sparse",
    "hybrid": "prunedeploy.runtimes.hybrid.engine:Hybrid",
    "null": "prunedeploy.runtimes.null:Null",
    "ort-cuda": "prunedeploy.runtimes.ort.gpu:OrtCuda",
    "ort-tensorrt": "prunedeploy.runtimes.ort.gpu:OrtTensorRT",
    "tensorrt": "prunedeploy.runtimes.tensorrt.runtime:TensorRT",
    "tensorrt-rtx": "prunedeploy.runtimes.tensorrt.rtx:TensorRTRtx",
    "sparse-gpu": "prunedeploy.runtimes.sparse.engine:SparseGpu",
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


def automatic(target: Target) -> list[str]:
    """The runtimes that "auto" chooses among for ``target``, best first.

    The sparse runtime on a GPU is asked for by name: it was never measured on one.
    """
    by_name_alone = ("null", "sparse-gpu", *(("sparse",) if is_for_gpu(target) else ()))
    there = [name for name in target.runtimes if name in RUNTIMES]
    return [name for name in there if name not in by_name_alone]


def refuse(target: Target, runtime: str) -> str | None:
    """Why no engine of ``runtime`` for ``target`` can be built here, in one line, or None.

    ``runtime`` "auto" stands for any that the target can have.
    """
    if runtime == "auto":
        if reason := why_not_here(target):
            return reason
        there = automatic(target)
        reasons = [by_name(name).refuse(target) for name in there]
        if not there:
            return f"none of {target.name}'s runtimes is there yet: {', '.join(target.runtimes)}"
        return None if None in reasons else reasons[0]
    if runtime not in RUNTIMES:
        known = f"choose from auto, {', '.join(RUNTIMES)}"
        return f"there is no runtime {runtime!r} yet: {known}"
    if runtime not in (*target.runtimes, "null"):
        return f"{target.name} cannot have {runtime}: it takes {', '.join(target.runtimes)}"
    return by_name(runtime).refuse(target)
