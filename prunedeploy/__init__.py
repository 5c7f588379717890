"""prunedeploy: take a trained sparse checkpoint and make it as fast as the hardware allows.

The functions below are the whole public interface; each is imported on first use, so that
``import prunedeploy`` needs neither torch nor onnx and takes milliseconds.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

# ``python -m prunedeploy`` imports this with the current folder on sys.path, before __main__.py
# takes it away: only modules that the interpreter has loaded by then, so not typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from prunedeploy.artifact import build, open
    from prunedeploy.bench import bench
    from prunedeploy.bundle.write import write_bundle
    from prunedeploy.checkpoint import Checkpoint, load
    from prunedeploy.errors import MissingExtra, UserError
    from prunedeploy.export import export
    from prunedeploy.inspection import Inspection, inspect
    from prunedeploy.lowering import LowerResult, lower
    from prunedeploy.pipeline import shrink
    from prunedeploy.prediction.predict import predict, predict_all
    from prunedeploy.prediction.record import Prediction
    from prunedeploy.remote.device import remote_bench, remote_build
    from prunedeploy.report import report
    from prunedeploy.runtimes._runtime import Session
    from prunedeploy.serving.onnxruntime_op import onnxruntime_library, onnxruntime_model
    from prunedeploy.serving.triton import serve_repo
    from prunedeploy.to_torch.slices import SlicePlan, apply_plan
    from prunedeploy.types import (
        Accuracy,
        BenchResult,
        Difference,
        Engine,
        Manifest,
        Measurement,
        ModelStats,
        Note,
        PassReport,
        PassResult,
        Ratio,
        ShrinkResult,
        TensorSpec,
    )

__version__ = "0.1.0"

# Every public name and the module it lives in.
_PUBLIC = {
    "load": "prunedeploy.checkpoint",
    "export": "prunedeploy.export",
    "shrink": "prunedeploy.pipeline",
    "apply_plan": "prunedeploy.to_torch.slices",
    "build": "prunedeploy.artifact",
    "emit_c": "prunedeploy.artifact",
    "write_bundle": "prunedeploy.bundle.write",
    "remote_build": "prunedeploy.remote.device",
    "remote_bench": "prunedeploy.remote.device",
    "open": "prunedeploy.artifact",
    "bench": "prunedeploy.bench",
    "report": "prunedeploy.report",
    "inspect": "prunedeploy.inspection",
    "lower": "prunedeploy.lowering",
    "predict": "prunedeploy.prediction.predict",
    "predict_all": "prunedeploy.prediction.predict",
    "onnxruntime_library": "prunedeploy.serving.onnxruntime_op",
    "onnxruntime_model": "prunedeploy.serving.onnxruntime_op",
    "serve_repo": "prunedeploy.serving.triton",
    "Checkpoint": "prunedeploy.checkpoint",
    "Inspection": "prunedeploy.inspection",
    "Session": "prunedeploy.runtimes._runtime",
    "SlicePlan": "prunedeploy.to_torch.slices",
    "UserError": "prunedeploy.errors",
    "MissingExtra": "prunedeploy.errors",
    "Accuracy": "prunedeploy.types",
    "BenchResult": "prunedeploy.types",
    "Difference": "prunedeploy.types",
    "Engine": "prunedeploy.types",
    "LowerResult": "prunedeploy.lowering",
    "Manifest": "prunedeploy.types",
    "Measurement": "prunedeploy.types",
    "ModelStats": "prunedeploy.types",
    "Note": "prunedeploy.types",
    "PassReport": "prunedeploy.types",
    "PassResult": "prunedeploy.types",
    "Prediction": "prunedeploy.prediction.record",
    "Ratio": "prunedeploy.types",
    "ShrinkResult": "prunedeploy.types",
    "TensorSpec": "prunedeploy.types",
}

__all__ = [  # noqa: RUF022 - in the order of the main job
    "load",
    "export",
    "shrink",
    "apply_plan",
    "build",
    "emit_c",
    "write_bundle",
    "remote_build",
    "remote_bench",
    "open",
    "bench",
    "report",
    "inspect",
    "lower",
    "predict",
    "predict_all",
    "onnxruntime_library",
    "onnxruntime_model",
    "serve_repo",
    "Checkpoint",
    "Inspection",
    "Session",
    "SlicePlan",
    "UserError",
    "MissingExtra",
    "Accuracy",
    "BenchResult",
    "Difference",
    "Engine",
    "LowerResult",
    "Manifest",
    "Measurement",
    "ModelStats",
    "Note",
    "PassReport",
    "PassResult",
    "Prediction",
    "Ratio",
    "ShrinkResult",
    "TensorSpec",
]


def __getattr__(name: str) -> Any:
    """PEP 562: import the module a public name lives in when the name is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


class _Package(ModuleType):
    """Keeps ``prunedeploy.bench`` the function once the module ``prunedeploy.bench`` is imported.

    The import system binds every submodule as an attribute of its package; bench, export and
    report are the names of both.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
