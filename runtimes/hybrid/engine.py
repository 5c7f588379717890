"""The runtime ``hybrid``: ONNX Runtime, with the parts in sparse engines that pay for it.

Payload: one ONNX model with a node in the place of each part, which holds the part's engine; the
library that runs such nodes; and the record of which node is where, and why.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json
from prunedeploy.core.records import Engine
from prunedeploy.runtimes.api import (
    BuildOptions,
    OpenOptions,
    Payload,
    Session,
    listed_bytes,
    listed_hash,
)
from prunedeploy.runtimes.hybrid.placement import OP_LIBRARY, PLACEMENT, Placement
from prunedeploy.runtimes.hybrid.session import HybridSession, held
from prunedeploy.runtimes.ort.cpu import Ort, payload
from prunedeploy.runtimes.sparse.engine import Sparse, why_not_here
from prunedeploy.targets import Target


class Hybrid:
    """See the module."""

    name = "hybrid"
    computes = True

    def refuse(self, target: Target) -> str | None:
        """It builds for the machine it runs on, which has a compiler and onnxruntime."""
        return Ort().refuse(target) or Sparse().refuse(target)

    def versions(self) -> dict[str, str]:
        """That of onnxruntime.

        Raises:
            MissingExtra: it is not installed.
        """
        return Ort().versions()

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Cut, build, measure, join."""
        from prunedeploy.runtimes.hybrid.build import build_hybrid

        return build_hybrid(model, target, directory, options)

    def open(self, engine: Engine, options: OpenOptions) -> Session:
        """A session; refuses before any code of an engine for another machine runs."""
        manifest = engine.manifest
        if reason := why_not_here(manifest.arch, manifest.isa):
            raise UserError(f"{engine.path} {reason}: build it here, or for this machine")
        library = held(engine.path / OP_LIBRARY, listed_hash(engine, OP_LIBRARY))
        threads = options.threads or max(1, min(manifest.threads, targets.cores()))
        given = replace(options, threads=threads)
        with payload(engine) as (path, weights):
            specs = (manifest.inputs, manifest.outputs)
            return HybridSession(path, library, *specs, given, manifest.batches, weights)


def read_placement(engine: Engine) -> Placement:
    """Which node of a hybrid engine is in which runtime, and why.

    Raises:
        UserError: it is not what was built.
    """
    try:
        return from_json(Placement, listed_bytes(engine, PLACEMENT).decode())
    except UnicodeDecodeError:
        raise UserError(f"{engine.path / PLACEMENT} is not what was built") from None
