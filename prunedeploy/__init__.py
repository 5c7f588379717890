"""prunedeploy: take a trained sparse checkpoint and make it as fast as the hardware allows.

The functions below are the whole public interface; each is imported on first use, so that
``import prunedeploy`` needs neither torch nor onnx and takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module

# ``python -m prunedeploy`` imports this with the current folder on sys.path, before __main__.py
# takes it away: only modules that the interpreter has loaded by then, so not typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from prunedeploy.bundle.write import write_bundle
    from prunedeploy.checkpoint import Checkpoint, load
    from prunedeploy.core.errors import MissingExtra, UserError
    from prunedeploy.core.records import (
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
    from prunedeploy.engines.building import build
    from prunedeploy.engines.lowering import LowerResult, lower
    from prunedeploy.engines.opening import open
    from prunedeploy.inspection.inspect import Inspection, inspect
    from prunedeploy.measure.bench import bench
    from prunedeploy.optimizing.optimize import OptimizeResult, optimize
    from prunedeploy.prediction.predict import predict, predict_all
    from prunedeploy.prediction.record import Prediction
    from prunedeploy.remote.device import remote_bench, remote_build
    from prunedeploy.reports.report import report
    from prunedeploy.runtimes.api import Session
    from prunedeploy.serving.onnxruntime_op import onnxruntime_library, onnxruntime_model
    from prunedeploy.serving.triton import serve_repo
    from prunedeploy.shrinking.export import export
    from prunedeploy.shrinking.pipeline import shrink
    from prunedeploy.to_torch.slices import SlicePlan, apply_plan

__version__ = "0.1.0"

# Every public name and the module it lives in.
_PUBLIC = {
    "optimize": "prunedeploy.optimizing.optimize",
    "load": "prunedeploy.checkpoint",
    "export": "prunedeploy.shrinking.export",
    "shrink": "prunedeploy.shrinking.pipeline",
    "apply_plan": "prunedeploy.to_torch.slices",
    "build": "prunedeploy.engines.building",
    "emit_c": "prunedeploy.engines.c_project",
    "write_bundle": "prunedeploy.bundle.write",
    "remote_build": "prunedeploy.remote.device",
    "remote_bench": "prunedeploy.remote.device",
    "open": "prunedeploy.engines.opening",
    "bench": "prunedeploy.measure.bench",
    "report": "prunedeploy.reports.report",
    "inspect": "prunedeploy.inspection.inspect",
    "lower": "prunedeploy.engines.lowering",
    "predict": "prunedeploy.prediction.predict",
    "predict_all": "prunedeploy.prediction.predict",
    "onnxruntime_library": "prunedeploy.serving.onnxruntime_op",
    "onnxruntime_model": "prunedeploy.serving.onnxruntime_op",
    "serve_repo": "prunedeploy.serving.triton",
    "Checkpoint": "prunedeploy.checkpoint",
    "Inspection": "prunedeploy.inspection.inspect",
    "Session": "prunedeploy.runtimes.api",
    "SlicePlan": "prunedeploy.to_torch.slices",
    "UserError": "prunedeploy.core.errors",
    "MissingExtra": "prunedeploy.core.errors",
    "Accuracy": "prunedeploy.core.records",
    "BenchResult": "prunedeploy.core.records",
    "Difference": "prunedeploy.core.records",
    "Engine": "prunedeploy.core.records",
    "LowerResult": "prunedeploy.engines.lowering",
    "Manifest": "prunedeploy.core.records",
    "Measurement": "prunedeploy.core.records",
    "ModelStats": "prunedeploy.core.records",
    "OptimizeResult": "prunedeploy.optimizing.optimize",
    "Note": "prunedeploy.core.records",
    "PassReport": "prunedeploy.core.records",
    "PassResult": "prunedeploy.core.records",
    "Prediction": "prunedeploy.prediction.record",
    "Ratio": "prunedeploy.core.records",
    "ShrinkResult": "prunedeploy.core.records",
    "TensorSpec": "prunedeploy.core.records",
}

__all__ = [  # noqa: RUF022 - in the order of the main job
    "optimize",
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
    "OptimizeResult",
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
