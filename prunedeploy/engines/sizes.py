"""Engines for several sizes of their inputs: a folder that has a whole engine for each size.

They are open together, as one session, which takes the engine that the inputs' sizes ask for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.core.records import Array, Engine, EngineSize, Manifest, TensorSpec
from prunedeploy.engines.engine_folder import MANIFEST, parse_manifest
from prunedeploy.runtimes.api import (
    Closing,
    OpenOptions,
    check_feeds,
    fits,
    listed_bytes,
    listed_hash,
)
from prunedeploy.runtimes.registry import by_name as runtime_by_name
from prunedeploy.runtimes.sparse.payload import LOADER

Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]  # of inputs and of outputs


def joined(
    folder: Path,
    names: Sequence[str],
    manifests: Sequence[Manifest],
    specs: Specs,
) -> Manifest:
    """The manifest of an engine for several sizes.

    Args:
        folder: of the engine; the engines of the sizes are complete in it.
        names: of their folders in it.
        manifests: theirs.
        specs: inputs and outputs of the model; a size in which the engines differ is open.
    """
    from prunedeploy.reference.verify import worst

    first = manifests[0]
    if LOADER in first.files:
        shutil.copyfile(folder / names[0] / LOADER, folder / LOADER)
    own = [f"{name}/{file}" for name, x in zip(names, manifests, strict=True) for file in x.files]
    own += [f"{name}/{MANIFEST}" for name in names]
    own += [LOADER] if LOADER in first.files else []
    differences = [each.difference for each in manifests if each.difference is not None]
    checks = [each.cross_check for each in manifests if each.cross_check is not None]
    baseline = first.baseline and os.path.normpath(Path(names[0]) / first.baseline)
    return replace(
        first,
        files={file: sha256(folder / file) for file in own},
        baseline=baseline,
        inputs=specs[0],
        outputs=specs[1],
        difference=worst(differences) if len(differences) == len(manifests) else None,
        batches=tuple(sorted({batch for each in manifests for batch in each.batches})),
        cross_check=max(checks, key=lambda check: check.difference, default=None),
        sizes=tuple(
            EngineSize(name, {spec.name: spec.shape for spec in each.inputs})
            for name, each in zip(names, manifests, strict=True)
        ),
    )


def each_engine(engine: Engine) -> tuple[Engine, ...]:
    """The engine of each size; the engine itself where it has but one.

    Raises:
        UserError: one of them is damaged.
    """
    if not engine.manifest.sizes:
        return (engine,)
    return tuple(_of_size(engine, size.folder) for size in engine.manifest.sizes)


def _of_size(engine: Engine, name: str) -> Engine:
    file = f"{name}/{MANIFEST}"
    text = listed_bytes(engine, file).decode("utf-8", "replace")
    manifest = parse_manifest(engine.path / name, text)
    if manifest.sizes or manifest.runtime != engine.manifest.runtime:
        raise UserError(f"{engine.path / name} is not what was built: build it again")
    return Engine(engine.path / name, manifest, listed_hash(engine, file))


def refuse_several(engine: Engine, what: str) -> None:
    """Refuse an engine for several sizes where one is taken; its folders are such engines.

    Raises:
        UserError: it is one.
    """
    if engine.manifest.sizes:
        first = engine.path / engine.manifest.sizes[0].folder
        raise UserError(
            f"{engine.path} is for {len(engine.manifest.sizes)} sizes, and {what} takes one: name "
            f"the engine of one, as {first}"
        )


class SizesSession(Closing):
    """A session for each size; that which takes the sizes of the inputs computes them."""

    def __init__(self, engine: Engine, options: OpenOptions) -> None:
        self.inputs, self.outputs = engine.manifest.inputs, engine.manifest.outputs
        runtime = runtime_by_name(engine.manifest.runtime)
        with ExitStack() as stack:
            # they run in turn: the threads of one must not spin while another computes
            shared = replace(options, shared=True)
            self._sessions = [
                stack.enter_context(runtime.open(each, shared)) for each in each_engine(engine)
            ]
            self._opened = stack.pop_all()
        self.provider = self._sessions[0].provider
        self._sizes = engine.manifest.sizes

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name.

        Raises:
            UserError: as the sessions of one size; inputs of a size that the engine has not.
        """
        given = check_feeds(self.inputs, feeds)
        for session in self._sessions:
            if all(fits(given[spec.name].shape, spec) for spec in session.inputs):
                return session.run(given)
        raise UserError(no_such_size(self._sizes, given))

    def close(self) -> None:
        """Close the session of every size."""
        self._opened.close()


def no_such_size(sizes: Sequence[EngineSize], given: Mapping[str, Array]) -> str:
    """What to say of inputs whose sizes are none of an engine's."""
    shapes = [size.shapes for size in sizes]
    names = [name for name in given if any(each[name] != shapes[0][name] for each in shapes)]
    given_sizes = ", ".join(f"{name} {_text(given[name].shape)}" for name in names)
    taken = " or ".join(", ".join(f"{n} {_text(each[n])}" for n in names) for each in shapes)
    return (
        f"the engine takes {taken}, found {given_sizes}: build it for that size, too, with --shape"
    )


def _text(shape: Sequence[int | str]) -> str:
    return " x ".join(map(str, shape))
