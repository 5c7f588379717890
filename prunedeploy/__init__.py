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
    from prunedeploy.bundle.write import write_bundle
    from prunedeploy.checkpoint import Checkpoint, load
    from prunedeploy.core.errors import MissingExtra, UserError
    from prunedeploy.core.measurements import Accuracy, BenchResult, Measurement
    from prunedeploy.core.records import (
        Difference,
        Engine,
        Manifest,
        ModelStats,
        Note,
        PassReport,
        PassResult,
        Ratio,
        ShrinkResult,
        TensorSpec,
    )
    from prunedeploy.engines.building import build
    from prunedeploy.engines.c_project import emit_c
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
    from prunedeploy.serving.http.loadtest import LoadResult, loadtest
    from prunedeploy.serving.http.options import ServeOptions
    from prunedeploy.serving.http.server import serve
    from prunedeploy.serving.onnxruntime_op import onnxruntime_library, onnxruntime_model
    from prunedeploy.serving.triton import serve_repo
    from prunedeploy.shrinking.export import export
    from prunedeploy.shrinking.pipeline import shrink
    from prunedeploy.sparsify.oneshot.model import SparsifyResult, sparsify_model
    from prunedeploy.sparsify.oneshot.options import OneShotOptions
    from prunedeploy.to_torch.slices import SlicePlan, apply_plan

__version__ = "0.1.0"

# The modules of the public names.
_MODULES = {
    "bundle.write": ("write_bundle",),
    "checkpoint": ("load", "Checkpoint"),
    "core.errors": ("MissingExtra", "UserError"),
    "core.measurements": ("Accuracy", "BenchResult", "Measurement"),
    "core.records": (
        *("Difference", "Engine", "Manifest", "ModelStats", "Note", "PassReport", "PassResult"),
        *("Ratio", "ShrinkResult", "TensorSpec"),
    ),
    "engines.building": ("build",),
    "engines.c_project": ("emit_c",),
    "engines.lowering": ("lower", "LowerResult"),
    "engines.opening": ("open",),
    "inspection.inspect": ("inspect", "Inspection"),
    "measure.bench": ("bench",),
    "optimizing.optimize": ("optimize", "OptimizeResult"),
    "prediction.predict": ("predict", "predict_all"),
    "prediction.record": ("Prediction",),
    "remote.device": ("remote_bench", "remote_build"),
    "reports.report": ("report",),
    "runtimes.api": ("Session",),
    "serving.http.loadtest": ("loadtest", "LoadResult"),
    "serving.http.options": ("ServeOptions",),
    "serving.http.server": ("serve",),
    "serving.onnxruntime_op": ("onnxruntime_library", "onnxruntime_model"),
    "serving.triton": ("serve_repo",),
    "shrinking.export": ("export",),
    "shrinking.pipeline": ("shrink",),
    "sparsify.oneshot.model": ("sparsify_model", "SparsifyResult"),
    "sparsify.oneshot.options": ("OneShotOptions",),
    "to_torch.slices": ("SlicePlan", "apply_plan"),
}
_PUBLIC = {name: f"prunedeploy.{module}" for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order of the main job
    "optimize", "sparsify_model", "load", "export", "shrink", "apply_plan",
    "build", "emit_c", "write_bundle", "remote_build", "remote_bench",
    "open", "bench", "report",
    "inspect", "lower", "predict", "predict_all",
    "serve", "loadtest", "onnxruntime_library", "onnxruntime_model", "serve_repo",
    "Checkpoint", "Inspection", "Session", "SlicePlan", "UserError", "MissingExtra",
    "Accuracy", "BenchResult", "Difference", "Engine", "LoadResult", "LowerResult", "Manifest",
    "Measurement", "ModelStats", "Note", "OneShotOptions", "OptimizeResult", "PassReport",
    "PassResult", "Prediction", "Ratio", "ServeOptions", "ShrinkResult", "SparsifyResult",
    "TensorSpec",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker sees the imports above, and so each misspelt name

    def __getattr__(name: str) -> object:
        """PEP 562: import the module a public name lives in when the name is first asked for."""
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
