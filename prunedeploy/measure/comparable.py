"""Whether engines may be measured side by side: one network to a caller, verified, of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine, TensorSpec
from prunedeploy.runtimes.api import split


def check_comparable(engines: Sequence[Engine], batch: int) -> None:
    """See that all are verified, are the same network to a caller, and take ``batch`` inputs.

    Raises:
        UserError: one of them is or does not.
    """
    dense = engines[0].manifest
    for engine in engines:
        manifest = engine.manifest
        if manifest.difference is None or not manifest.difference.passed:
            raise UserError(
                f"{engine.path} was not found to compute what its model computes: it has no speed"
            )
        if _interface(engine) != _interface(engines[0]):
            raise UserError(
                f"{engine.path} is not the same network as its baseline: "
                f"{_described(engine)} against {_described(engines[0])}"
            )
        if split(batch, manifest.batches) is None:
            sizes = ", ".join(map(str, manifest.batches))
            raise UserError(
                f"{engine.path} was built for batches of {sizes}, not {batch}: "
                f"use one of those, or build it again with --batch {batch}"
            )
        for fixed in (_fixed_batch(manifest.inputs), _fixed_batch(dense.inputs)):
            if fixed is not None and fixed != batch:
                raise UserError(
                    f"{engine.path} takes batches of {fixed} only: use --batch {fixed}, "
                    "or export the model with a dynamic batch"
                )


def _fixed_batch(inputs: Iterable[TensorSpec]) -> int | None:
    """The one batch that inputs allow; None where it is open.

    Where one input leaves it open, first sizes of others that are numbers are none of the batch:
    those of recurrent states count layers.
    """
    first = [spec.shape[0] for spec in inputs if spec.shape]
    numbers = [dim for dim in first if isinstance(dim, int)]
    return numbers[0] if numbers and len(numbers) == len(first) else None


def _interface(engine: Engine) -> tuple[object, ...]:
    """Names, dtypes and sizes other than the first; dynamic sizes whatever their name."""
    return tuple(
        sorted(
            (spec.name, spec.dtype, tuple(d if isinstance(d, int) else -1 for d in spec.shape[1:]))
            for spec in specs
        )
        for specs in (engine.manifest.inputs, engine.manifest.outputs)
    )


def _described(engine: Engine) -> str:
    def words(specs: Iterable[object]) -> str:
        return ", ".join(map(str, specs))

    manifest = engine.manifest
    inputs = words(f"{x.name} {'x'.join(map(str, x.shape))}" for x in manifest.inputs)
    outputs = words(f"{x.name} {'x'.join(map(str, x.shape))}" for x in manifest.outputs)
    return f"{inputs} -> {outputs}"
