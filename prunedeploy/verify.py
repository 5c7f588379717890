"""Does a candidate compute what the reference computes? The only home of tolerances.

The error that counts is relative to the *range* of the reference's output, largest minus
smallest value over the samples: a logit of 1e-9 among logits of 10 may be off by all of itself
without a prediction noticing, while one bound on the absolute error would be nonsense for
networks whose outputs are in the thousands.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from prunedeploy.errors import UserError
from prunedeploy.types import Array, Difference, TensorSpec

# A float32 sum of n products carries a relative error near sqrt(n) * 2**-24; the longest sums of
# the networks we meet (25,000 terms, some 100 layers deep) reach 1e-6 to 4e-6 of the range when
# nothing but the order of summation changes. A lost weight of ordinary size shows above 1e-4.
# float64 has the same argument at 2**-53; float16 and bfloat16 round at 2**-11 and 2**-8.
TOLERANCE: dict[str, float] = {
    "float64": 1e-12,
    "float32": 1e-5,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}


def random_feeds(
    inputs: tuple[TensorSpec, ...], batch: int = 2, seed: int = 0, size: int = 32
) -> dict[str, Array]:
    """Inputs drawn from N(0, 1); integers from {0, 1}.

    Args:
        inputs: what the model takes. Its first dimension is ``batch`` where it is dynamic, every
            other dynamic dimension is ``size``.
        batch: samples per input.
        seed: the same seed gives the same arrays.
        size: length of dynamic dimensions other than the first.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in inputs:
        shape = [
            dim if isinstance(dim, int) else (batch if axis == 0 else size)
            for axis, dim in enumerate(spec.shape)
        ]
        kind = np.dtype(spec.dtype)
        if _is_floating(kind):
            feeds[spec.name] = random.standard_normal(shape).astype(kind)
        else:
            feeds[spec.name] = random.integers(0, 2, shape).astype(kind)
    return feeds


def _is_floating(dtype: np.dtype[np.generic]) -> bool:
    """NumPy files bfloat16, float8 and their like under void."""
    try:
        ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return dtype.kind != "c"


def compare(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], tolerance: float | None = None
) -> Difference:
    """The largest difference over all outputs.

    Args:
        reference: outputs by name, axis 0 the samples.
        candidate: the same of the other model.
        tolerance: on ``max_rel``; from ``TOLERANCE`` by the reference's dtype when None.

    Raises:
        UserError: outputs are missing or of another shape.
    """
    worst_abs, worst_rel, where, samples, changed = 0.0, 0.0, "", 0, 0
    if tolerance is None:
        tolerance = max(TOLERANCE.get(array.dtype.name, 0.0) for array in reference.values())
    for name, expected in reference.items():
        if name not in candidate or candidate[name].shape != expected.shape:
            found = candidate[name].shape if name in candidate else "nothing"
            raise UserError(f"output {name} should have shape {expected.shape}, found {found}")
        absolute, relative = _output_difference(expected, candidate[name])
        if not relative <= worst_rel:  # NaN is the worst of all
            worst_rel, where = relative, name
        worst_abs = absolute if not absolute <= worst_abs else worst_abs
        samples = max(samples, len(expected) if expected.ndim else 1)
        changed = max(changed, _changed_predictions(expected, candidate[name]))
    return Difference(worst_abs, worst_rel, tolerance, samples, where, changed)


def _output_difference(expected: Array, found: Array) -> tuple[float, float]:
    """Largest absolute difference, and the same relative to the range of ``expected``."""
    if not expected.size:
        return 0.0, 0.0
    left, right = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        distance = np.where(same, 0.0, np.abs(left - right))
    absolute = float(distance.max())
    if absolute == 0.0:
        return 0.0, 0.0
    finite = left[np.isfinite(left)]
    span = float(finite.max() - finite.min()) if finite.size else 0.0
    # an output that never varies has no range: its size stands in
    scale = span or (float(np.abs(finite).max()) if finite.size else 0.0) or 1.0
    return absolute, absolute / scale


def _changed_predictions(expected: Array, found: Array) -> int:
    """Samples whose largest class differs, for outputs of shape [samples, classes]."""
    if expected.ndim != 2 or expected.shape[1] < 2:
        return 0
    return int(np.count_nonzero(expected.argmax(1) != found.argmax(1)))
