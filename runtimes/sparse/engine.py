"""The runtime ``sparse``: models compiled for this machine or for another one.

Opening an engine imports nothing of what building takes.
"""

from __future__ import annotations

import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine
from prunedeploy.runtimes.api import (
    BuildOptions,
    OpenOptions,
    Payload,
    listed_bytes,
    listed_hash,
)
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.payload import LAYERS, LIBRARY
from prunedeploy.runtimes.sparse.session import Library, SparseSession
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import is_for_gpu


class Sparse:
    """Payload: a shared library, its C header, and what its layers are."""

    name = "sparse"
    computes = True

    def refuse(self, target: Target) -> str | None:
        """It builds for every processor that a compiler is at hand for."""
        from prunedeploy.runtimes.sparse.toolchain.compile import toolchain

        try:
            toolchain(target)
        except UserError as error:
            return str(error)
        return None

    def versions(self) -> dict[str, str]:
        """An engine needs no library; the compiler is on record with the payload."""
        return {}

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Lower, emit, compile; for the GPU of a target that has one and states no CPU."""
        from prunedeploy.runtimes.sparse import build as on_cpu
        from prunedeploy.runtimes.sparse.gpu import build as on_gpu

        if is_for_gpu(target):
            return on_gpu.build_payload(model, target, directory, options)
        return on_cpu.build_payload(model, target, directory, options)

    def emit(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> None:
        """The same as a C project, for somebody else to compile; no compiler is needed here."""
        from prunedeploy.runtimes.sparse.build import write_sources

        if is_for_gpu(target) or self.name != Sparse.name:
            raise UserError(f"the engine for {target.name} is PTX: use prunedeploy build")
        write_sources(model, target, directory, options)

    def open(self, engine: Engine, options: OpenOptions) -> SparseSession:
        """A session; refuses before any code of an engine for another machine runs."""
        manifest = engine.manifest
        if reason := why_not_here(manifest.arch, manifest.isa):
            raise UserError(f"{engine.path} {reason}: build it here, or for this machine")
        library = Library(engine.path / LIBRARY, listed_hash(engine, LIBRARY))
        try:
            _check_interface(engine, library)
            threads = options.threads or min(manifest.threads, targets.cores()) or 1
            return SparseSession(
                library, threads, manifest.inputs, manifest.outputs, partial(read_layers, engine)
            )
        except BaseException:
            library.close()
            raise


class SparseGpu(Sparse):
    """The same for the GPU of a board whose processor has sparse engines as well."""

    name = "sparse-gpu"

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Lower, emit PTX, assemble where there is a ptxas, compile the library around it."""
        from prunedeploy.runtimes.sparse.gpu.build import build_payload

        return build_payload(model, target, directory, options)


def why_not_here(arch: str, isa: str) -> str | None:
    """Why code for ``arch`` with ``isa`` does not run on this machine; None where it does."""
    if arch != platform.machine():
        return f"is for {arch}, this machine is {platform.machine()}"
    if isa.startswith("sm_"):
        return None  # of a GPU: its library looks for one when a session starts
    needs = ISAS[isa].needs if isa in ISAS else (isa,)
    missing = [name for name in needs if name not in targets.host_isa()]
    return f"needs {', '.join(missing)}, which this machine lacks" if missing else None


def read_layers(engine: Engine, batch: int) -> list[dict[str, Any]]:
    """The steps of ``batch`` as ``build`` wrote them.

    Raises:
        UserError: they are not what was built.
    """
    try:
        layers: list[dict[str, Any]] = json.loads(listed_bytes(engine, LAYERS))["layers"][
            str(batch)
        ]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        raise UserError(f"{engine.path / LAYERS} is not what was built: build it again") from None
    return layers


def _check_interface(engine: Engine, library: Library) -> None:
    """The library has the names and dtypes that the manifest promises."""
    manifest = engine.manifest
    for specs, tensors in ((manifest.inputs, library.inputs), (manifest.outputs, library.outputs)):
        if {(s.name, s.dtype) for s in specs} != {(t.name, t.dtype) for t in tensors}:
            raise UserError(f"{engine.path} is another network than its manifest says")
    if library.isa != manifest.isa:
        raise UserError(f"{engine.path} is built for {library.isa}, not {manifest.isa} as it says")
