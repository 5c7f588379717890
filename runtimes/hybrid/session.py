"""Sessions of hybrid engines: ONNX Runtime's, with the custom op that runs the sparse parts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import held_copy
from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.runtimes.api import OpenOptions, check_feeds, split
from prunedeploy.runtimes.hybrid.custom_op import THREADS_ENTRY
from prunedeploy.runtimes.ort.cpu import NO_WEIGHTS, OrtSession, Weights

#: ONNX Runtime's threads sleep while a sparse part computes with its own on the same processors
NO_SPINNING = {"session.intra_op.allow_spinning": "0"}

# libraries by hash, held for good: what was loaded once stays loaded
_held: dict[str, Path] = {}
_lock = threading.Lock()


class HybridSession(OrtSession):
    """One session of ONNX Runtime; its sparse nodes compute with as many threads as it has."""

    def __init__(
        self,
        model: Path,
        library: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        options: OpenOptions,
        batches: tuple[int, ...],
        weights: Weights = NO_WEIGHTS,
    ) -> None:
        entries = {THREADS_ENTRY: str(options.threads), **NO_SPINNING}
        super().__init__(
            *(model, inputs, outputs, options),
            entries=entries,
            libraries=(library,),
            weights=weights,
        )
        self.provider = f"{self.provider} with sparse parts"
        self._batches = batches
        # a batch the parts were not built for they compute in pieces that they were
        self.cuts = all(spec.shape and isinstance(spec.shape[0], str) for spec in inputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        given = check_feeds(self.inputs, feeds)
        for spec in self.inputs:
            if spec.shape and isinstance(spec.shape[0], str):
                self._check_batch(len(given[spec.name]))
                break
        return super().run(given)

    def _check_batch(self, batch: int) -> None:
        """Refuse a batch before a part in the middle does.

        Raises:
            UserError: it is no sum of batches that the engine was built for.
        """
        if split(batch, self._batches) is None:
            sizes = ", ".join(map(str, self._batches))
            raise UserError(
                f"the engine was built for batches of {sizes}, found {batch}: "
                f"build it again with --batch {batch}"
            )


def held(library: Path, expected: str) -> Path:
    """A path to a copy of ``library`` that has the hash ``expected``, good for this process.

    Raises:
        UserError: another hash, or it cannot be read.
    """
    with _lock:
        if expected not in _held:
            try:
                copy = held_copy(library, expected)
            except OSError as error:
                raise UserError(
                    f"cannot read {library}: {error.strerror}; build it again"
                ) from None
            _held[expected] = Path(f"/proc/self/fd/{copy}")
        return _held[expected]
