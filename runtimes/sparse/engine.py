"""The runtime ``sparse``: models compiled for this machine or for another one."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from prunedeploy import targets
from prunedeploy.errors import UserError
from prunedeploy.runtimes._runtime import BuildOptions, OpenOptions, Payload
from prunedeploy.runtimes.sparse import compile as compiling
from prunedeploy.runtimes.sparse.emit.project import HEADER, Options, Project, c_file, emit_project
from prunedeploy.runtimes.sparse.makefile import makefile, readme
from prunedeploy.runtimes.sparse.plan import Plan
from prunedeploy.runtimes.sparse.session import Library, SparseSession
from prunedeploy.runtimes.sparse.tune import tune
from prunedeploy.targets import Target
from prunedeploy.types import Engine, TensorSpec

LIBRARY, LAYERS = compiling.LIBRARY, "layers.json"
MODEL_HEADER = "model.h"
MOST_BATCH = 4096

# Of targets.ISA_FLAGS, what code for an instruction set runs on.
NEEDS: dict[str, tuple[str, ...]] = {
    "avx512": ("avx2", "fma", "avx512"),
    "avx2": ("avx2", "fma"),
    "neon": ("neon",),
    "generic": (),
}


class Sparse:
    """Payload: a shared library, its C header, and what its layers are."""

    name = "sparse"
    computes = True

    def refuse(self, target: Target) -> str | None:
        """It builds for every processor that a compiler is at hand for."""
        try:
            compiling.toolchain(target)
        except UserError as error:
            return str(error)
        return None

    def versions(self) -> dict[str, str]:
        """An engine needs no library; the compiler is on record with the payload."""
        return {}

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Lower, emit, compile."""
        tools = compiling.toolchain(target)
        project, threads = project_of(model, target, tools, options)
        options.tell(f"compiling with {tools}")
        compiling.build_library(project, directory / LIBRARY, tools)
        (directory / MODEL_HEADER).write_text(c_file(HEADER))
        (directory / LAYERS).write_text(layers_json(project))
        return Payload(
            files=(LIBRARY, MODEL_HEADER, LAYERS),
            versions={tools.name: tools.version},
            batches=project.batches,
            threads=threads,
            arch=target.arch,
            isa=project.isa,
        )

    def emit(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> None:
        """The same as a C project, for somebody else to compile; no compiler is needed here."""
        try:
            tools = compiling.toolchain(target)
        except UserError:  # then nothing is measured either
            tools = None
        project, _ = project_of(model, target, tools, options)
        compiling.write(project, directory)
        (directory / LAYERS).write_text(layers_json(project))
        (directory / "Makefile").write_text(makefile(project, target))
        (directory / "README.md").write_text(readme(project, target))

    @contextmanager
    def open(self, engine: Engine, options: OpenOptions) -> Iterator[SparseSession]:
        """A session; refuses before any code of an engine for another machine runs."""
        manifest = engine.manifest
        if reason := why_not_here(manifest.arch, manifest.isa):
            raise UserError(f"{engine.path} {reason}: build it here, or for this machine")
        library = Library(engine.path / LIBRARY)
        try:
            _check_interface(engine, library)
            threads = options.threads or min(manifest.threads, targets.cores()) or 1
            session = SparseSession(
                library, threads, manifest.inputs, manifest.outputs, partial(read_layers, engine)
            )
            try:
                yield session
            finally:
                session.close()
        finally:
            library.close()


def why_not_here(arch: str, isa: str) -> str | None:
    """Why code for ``arch`` with ``isa`` does not run on this machine; None where it does."""
    if arch != platform.machine():
        return f"is for {arch}, this machine is {platform.machine()}"
    missing = [name for name in NEEDS.get(isa, (isa,)) if name not in targets.host_isa()]
    return f"needs {', '.join(missing)}, which this machine lacks" if missing else None


def layers_json(project: Project) -> str:
    """What every step is and has to do, by batch."""
    layers = {str(batch): [asdict(x) for x in found] for batch, found in project.layers.items()}
    return json.dumps({"type": "Layers", "isa": project.isa, "layers": layers}, indent=1) + "\n"


def read_layers(engine: Engine, batch: int) -> list[dict[str, Any]]:
    """The steps of ``batch`` as ``layers_json`` wrote them."""
    found: list[dict[str, Any]] = json.loads((engine.path / LAYERS).read_text())["layers"][
        str(batch)
    ]
    return found


def project_of(
    model: Path, target: Target, tools: compiling.Toolchain | None, options: BuildOptions
) -> tuple[Project, int]:
    """The C project, and the number of threads that it is cut for."""
    import onnx_ir as ir

    from prunedeploy import model as models

    loaded: ir.Model = models.load(model)
    inputs, outputs = models.specs(loaded)
    threads = options.threads or target.cores or targets.cores()
    plans = [_lower(loaded, batch) for batch in _batches(inputs, options.batches)]
    _check_batched(plans, outputs)
    tuned: list[dict[str, Any]] = []
    if tools is not None and options.tune != "none" and targets.why_not_here(target) is None:
        tuned = [
            tune(plan, tools, threads, options.tune, progress=options.tell).tilings
            for plan in plans
        ]
    written = Options(
        isa=compiling.isa_of(target),
        threads=threads,
        version=metadata.version("prunedeploy"),
        inputs=inputs,
        outputs=tuple(spec for spec in outputs if _is_batched(spec, plans)),
        tuned=tuned,
    )
    return emit_project(plans, written), threads


def _lower(model: Any, batch: int) -> Plan:
    from prunedeploy.runtimes.sparse.lower import Refusal, lower

    found = lower(model, batch)
    if isinstance(found, Refusal):
        raise UserError(f"the sparse runtime cannot compute {found}: use --runtime ort")
    return found


def _batches(inputs: tuple[TensorSpec, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The batch sizes to build for, each once, as the model allows.

    Raises:
        UserError: the model has one fixed batch, and another is wanted.
    """
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if bad := [size for size in wanted if not 1 <= size <= MOST_BATCH]:
        raise UserError(f"a batch of {bad[0]} cannot be built: give 1 to {MOST_BATCH}")
    if isinstance(first, int):
        if set(wanted) - {first}:
            raise UserError(
                f"the model takes batches of {first} only: leave out --batch, "
                "or export it with a dynamic batch"
            )
        return (first,)
    return tuple(sorted(set(wanted))) or (1,)


def _is_batched(spec: TensorSpec, plans: list[Plan]) -> bool:
    """Whether the first axis of an output is the batch, in every plan."""
    if not spec.shape or isinstance(spec.shape[0], int):
        return False
    return all(
        port.shape[:1] == (plan.batch,)
        for plan in plans
        for port in plan.outputs
        if port.name == spec.name
    )


def _check_batched(plans: list[Plan], outputs: tuple[TensorSpec, ...]) -> None:
    if len(plans) == 1:
        return
    for spec in outputs:
        if not _is_batched(spec, plans):
            raise UserError(
                f"the first axis of output {spec.name!r} is not the batch: "
                "build for one batch size only"
            )


def _check_interface(engine: Engine, library: Library) -> None:
    """The library has the names and dtypes that the manifest promises."""
    manifest = engine.manifest
    for specs, tensors in ((manifest.inputs, library.inputs), (manifest.outputs, library.outputs)):
        if {(s.name, s.dtype) for s in specs} != {(t.name, t.dtype) for t in tensors}:
            raise UserError(f"{engine.path} is another network than its manifest says")
    if library.isa != manifest.isa:
        raise UserError(f"{engine.path} is built for {library.isa}, not {manifest.isa} as it says")
