"""TensorRT: engines for the very GPU and version they are built with.

The precision is the model's; 2:4 sparse weights are used where they are so and the GPU has the
tensor cores; timings of kernels are kept between builds.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.files import atomic_path, cache_folder
from prunedeploy.core.records import Engine
from prunedeploy.runtimes.api import BuildOptions, OpenOptions, Payload, Session
from prunedeploy.runtimes.tensorrt.common import Trt, TrtSession, load, write
from prunedeploy.runtimes.tensorrt.dialects import flags, has_float16, two_four_layers
from prunedeploy.targets import Target, gpus, why_not_here
from prunedeploy.targets.tensorrt import dialect

NAME, EXTRA = "TensorRT", "tensorrt"


def _library() -> Any:
    return load("tensorrt", EXTRA)


class TensorRT:
    """Payload: the plan, what every layer became, and how it was built."""

    name = "tensorrt"
    computes = True

    def __init__(self, *, refit: bool = False) -> None:
        self._refit = refit

    def refuse(self, target: Target) -> str | None:
        """A plan is for the GPU, the version and the system that it is built with."""
        if target.compute_capability is None:
            return f"{target.name} has no CUDA GPU, which {NAME} is for: take --runtime ort"
        if reason := why_not_here(target):
            return reason
        if importlib.util.find_spec("tensorrt") is None:
            return str(MissingExtra("tensorrt", EXTRA))
        try:
            version = str(_library().__version__)
            row = dialect(version)
        except UserError as error:
            return str(error)
        if not row.names:
            return f"TensorRT {version} cannot be driven from here: 8.5 is the oldest that can"
        oldest, newest = row.capabilities
        if not oldest <= float(target.compute_capability) <= newest:
            return f"TensorRT {version} has no kernels for {target.compute_capability}"
        return None

    def versions(self) -> dict[str, str]:
        """The library's own version.

        Raises:
            MissingExtra: it is not installed.
        """
        return {"tensorrt": str(_library().__version__)}

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Build on the GPU here, with the timings of earlier builds."""
        from prunedeploy.graph import model as models
        from prunedeploy.graph import shapes
        from prunedeploy.passes.opset import lowered

        library = _library()
        row = dialect(str(library.__version__))
        program = models.load(model)
        if program.opset_imports.get("", 1) > row.opset or program.ir_version > row.ir_version:
            lowered(program, row.opset, row.ir_version)
        shapes.infer_shapes(program)
        sparse = two_four_layers(program) if target.sparse_tensor_cores else ()
        wanted = flags(row, float16=has_float16(program), sparse=bool(sparse), refit=self._refit)
        cache = _cache_file(str(library.__version__), str(target.compute_capability))
        kept: list[Any] = []

        def configure(config: Any, network: Any) -> None:  # noqa: ARG001 - of the interface
            set_flags(library, config, wanted)
            kept.append(use_timing_cache(config, cache))

        trt = Trt(library, NAME, EXTRA, row)
        with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
            models.save(program, Path(folder) / model.name)
            built = trt.build(Path(folder) / model.name, options.batches, configure)
        store_timing_cache(kept[0], cache)
        record = {
            "compute_capability": target.compute_capability,
            "flags": list(wanted),
            "two_four_layers": list(sparse),
        }
        names = write(directory, built, record)
        (directory / "layers.json").write_text(trt.inspect(built.plan))
        return Payload((*names, "layers.json"), batches=options.batches)

    def open(
        self,
        engine: Engine,
        options: OpenOptions,  # noqa: ARG002 - threads are the GPU's own business
    ) -> Session:
        """A session on the GPU."""
        if not gpus():
            raise UserError(f"{NAME} engines open where a CUDA GPU is: there is none here")
        library = _library()
        row = dialect(str(library.__version__))
        return TrtSession(Trt(library, NAME, EXTRA, row), engine)


def set_flags(library: Any, config: Any, names: tuple[str, ...]) -> None:
    """Set the flags of these names; float32 is float32, not TensorFloat-32."""
    for name in names:
        config.set_flag(getattr(library.BuilderFlag, name))
    config.clear_flag(library.BuilderFlag.TF32)


def _cache_file(version: str, capability: str) -> Path:
    """Timings are of one version on one kind of GPU."""
    return cache_folder() / f"tensorrt-{version}-sm{capability}.timings"


def use_timing_cache(config: Any, file: Path) -> Any:
    """The timing cache of the build, begun with what ``file`` holds, if that is of use."""
    try:
        held = file.read_bytes()
    except OSError:
        held = b""
    cache = config.create_timing_cache(held) or config.create_timing_cache(b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def store_timing_cache(cache: Any, file: Path) -> None:
    """Keep the timings for the next build; a disk that is full loses nothing but time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    except (OSError, UserError):
        return
