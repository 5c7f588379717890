"""TensorRT-RTX: engines for GPUs from Turing to Blackwell, built on any x86 machine, with no GPU.

Another runtime than TensorRT, with plans of its own, that compiles kernels when it opens them. On
Turing it multiplies in float16 only, so that there the model is converted, with what that costs on
record; elsewhere the precision is the model's.
"""

from __future__ import annotations

import importlib.util
import platform
import tempfile
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Engine, Note
from prunedeploy.runtimes.api import BuildOptions, OpenOptions, Payload, Session
from prunedeploy.runtimes.tensorrt.common import Trt, TrtSession, load, write
from prunedeploy.targets import Target, gpus
from prunedeploy.targets.tensorrt import DIALECTS

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
FLOAT16_ONLY = ("7.5",)
NAME, EXTRA = "TensorRT-RTX", "rtx"


def _library() -> Any:
    return load("tensorrt_rtx", EXTRA)


class TensorRTRtx:
    """Payload: the plan, and how it was built."""

    name = "tensorrt-rtx"
    computes = True

    def refuse(self, target: Target) -> str | None:
        """It builds for GPUs that are not here too, but not for every one."""
        if target.compute_capability is None:
            return f"{target.name} has no CUDA GPU, which {NAME} is for: take --runtime ort"
        if target.compute_capability not in CAPABILITIES:
            known = ", ".join(CAPABILITIES)
            return f"{NAME} has no kernels for {target.compute_capability}: it has them for {known}"
        if target.arch != "x86_64" or platform.machine() != "x86_64":
            return f"{NAME} is for x86-64 alone, not for {target.arch} on {platform.machine()}"
        if importlib.util.find_spec("tensorrt_rtx") is None:
            return str(MissingExtra("tensorrt_rtx", EXTRA))
        return None

    def versions(self) -> dict[str, str]:
        """The library's own version.

        Raises:
            MissingExtra: it is not installed.
        """
        return {"tensorrt_rtx": str(_library().__version__)}

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Build for the target's compute capability, wherever this is."""
        library = _library()
        capability = str(target.compute_capability)
        with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
            notes: tuple[Note, ...] = ()
            if capability in FLOAT16_ONLY:
                model, notes = _in_float16(model, Path(folder))
            else:  # in the one form, with functions inlined and what was put right
                model = _prepared(model, Path(folder))

            def configure(config: Any, network: Any) -> None:  # noqa: ARG001 - of the interface
                config.num_compute_capabilities = 1
                kind = getattr(library.ComputeCapability, f"SM{capability.replace('.', '')}")
                config.set_compute_capability(kind, 0)
                config.clear_flag(library.BuilderFlag.TF32)  # float32 is float32

            built = Trt(library, NAME, EXTRA, DIALECTS[-1]).build(model, options.batches, configure)
        record = {
            "compute_capability": capability,
            "precision": "float16" if notes else "as the model",
            "notes": [f"{note.where}: {note.status}: {note.reason}" for note in notes],
        }
        precision = "float16" if notes else ""
        files = write(directory, built, record)
        return Payload(files, batches=options.batches, precision=precision)

    def open(
        self,
        engine: Engine,
        options: OpenOptions,  # noqa: ARG002 - threads are the GPU's own business
    ) -> Session:
        """A session on the GPU."""
        if not gpus():
            raise UserError(f"{NAME} engines open where a CUDA GPU is: there is none here")
        return TrtSession(Trt(_library(), NAME, EXTRA, DIALECTS[-1]), engine)


def _prepared(model: Path, folder: Path) -> Path:
    from prunedeploy.graph import model as models

    models.save(models.load(model), folder / model.name)
    return folder / model.name


def _in_float16(model: Path, folder: Path) -> tuple[Path, tuple[Note, ...]]:
    """The model in float16, in a file of its own, and the notes of the pass."""
    from prunedeploy.graph import model as models
    from prunedeploy.passes.precision.to_float16 import ToFloat16

    program = models.load(model)
    result = ToFloat16()(program)
    if refused := [
        note for note in result.notes if note.status == "refused" and not result.changed
    ]:
        reason = f"{refused[0].where}: {refused[0].reason}"
        raise UserError(
            f"{model.name} cannot be written in float16, which this GPU needs: {reason}"
        )
    models.save(program, folder / "float16.onnx")
    return folder / "float16.onnx", result.notes
