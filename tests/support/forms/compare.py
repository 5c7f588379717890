"""A form in the interpreter and in ONNX Runtime, and whether the two agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from forms.base import Form, Schema, feeds, model, versions
from prunedeploy.core.errors import UserError
from prunedeploy.reference import defined
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.registry import KERNELS

TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
SMALLEST = 1e-6  # what is smaller counts as zero
# Where ONNX Runtime has numbers of float32 in what it computes in float64.
LOOSE: dict[str, dict[str, float]] = {
    "Attention": {"float64": 1e-6},
    "BlackmanWindow": {"float64": 1e-6},
    "DFT": {"float64": 1e-6},
    "Gelu": {"float64": 1e-7},
    "GroupNormalization": {"float64": 1e-6},
    "HammingWindow": {"float64": 1e-6},
    "HannWindow": {"float64": 1e-6},
    "Shrink": {"float64": 1e-6},
}


@dataclass(frozen=True)
class Outcome:
    """What became of a form.

    ``agree`` or ``differ``: with ONNX Runtime; ``refused``: by us, where that computes it. Where it
    does not, what else agreed: ``definition``, ``onnx``, or itself in ``float32`` or in the version
    ``earlier``; or nothing, ``not compared``.
    """

    status: str
    reason: str = ""


def session(proto: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    data = proto.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def outcome(schema: Schema, form: Form) -> Outcome:
    """The form in ONNX Runtime; in what else there is where that cannot run it."""
    proto, given = model(schema, form), feeds(form)
    try:
        expected = session(proto).run(None, given)
    except Exception as error:  # whatever ONNX Runtime raises
        return _otherwise(schema, form, proto, first_line(error))
    try:
        found = ours(proto, given)
    except UserError as error:
        return Outcome("refused", first_line(error))
    reason = apart(schema, expected, found)
    return Outcome("agree") if reason is None else Outcome("differ", reason)


def ours(proto: Any, given: dict[str, Any]) -> list[Any]:
    return list(Evaluator(ir.from_proto(proto)).run(given).values())


def apart(schema: Schema, expected: list[Any], found: list[Any]) -> str | None:
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        if (reason := difference(one, other, LOOSE.get(schema.name, {}))) is not None:
            return f"output {index}: {reason}"
    return None


def _otherwise(schema: Schema, form: Form, proto: Any, why: str) -> Outcome:
    """By the function that defines the operator, by onnx's own code, by ONNX Runtime otherwise."""
    try:
        found = ours(proto, feeds(form))
    except UserError as error:
        return Outcome("not compared", f"{why}; {first_line(error)}")
    for name, run in (("definition", _defined), ("onnx", _onnx)):
        try:
            expected = run(schema, form, proto)
        except Exception:  # it does not know the form
            continue
        if expected is not None and apart(schema, expected, found) is None:
            return Outcome(name)
    if _as_in_float32(schema, form, found):
        return Outcome("float32")
    if _as_in_earlier(schema, form, found):
        return Outcome("earlier")
    return Outcome("not compared", why)


def _defined(schema: Schema, form: Form, proto: Any) -> list[Any] | None:
    if not (schema.has_function or schema.has_context_dependent_function):
        return None
    if schema.name in defined.TABLE:  # it is how we compute it
        return None
    node = ir.from_proto(proto).graph[0]

    def make(inner: ir.Model) -> Any:
        return Evaluator(inner).run

    step = defined.definition(schema.since_version)(node, {}, make)
    return list(step(list(form.inputs), {}))[: form.shown or form.outputs]


def _onnx(schema: Schema, form: Form, proto: Any) -> list[Any]:
    found: list[Any] = ReferenceEvaluator(proto).run(None, feeds(form))
    return found


def _as_in_float32(schema: Schema, form: Form, found: list[Any]) -> bool:
    """Whether ONNX Runtime gives the same for inputs of one type, or of all, made float32."""
    formal = [schema.inputs[min(i, len(schema.inputs) - 1)] for i in range(len(form.inputs))]
    groups = {
        kind.type_str
        for kind, x in zip(formal, form.inputs, strict=True)
        if isinstance(x, np.ndarray) and x.dtype != np.float32 and "tensor(float)" in kind.types
    }
    for group in [*({g} for g in sorted(groups)), *([groups] if len(groups) > 1 else [])]:
        wide = tuple(
            x.astype(np.float32) if isinstance(x, np.ndarray) and kind.type_str in group else x
            for kind, x in zip(formal, form.inputs, strict=True)
        )
        same = replace(form, inputs=wide)
        try:
            expected = session(model(schema, same)).run(None, feeds(same))
            if all(map(_close, expected, found)):
                return True
        except Exception:  # it does not know this one either
            continue
    return False


def _as_in_earlier(schema: Schema, form: Form, found: list[Any]) -> bool:
    """Whether ONNX Runtime gives the same in a version before that we say computes the same."""
    kernels, since = KERNELS.get(schema.name, {}), schema.since_version
    for older in reversed([s for s in versions()[schema.name] if s.since_version < since]):
        if kernels.get(older.since_version) is not kernels.get(since):
            return False
        try:
            expected = session(model(older, form)).run(None, feeds(form))
        except Exception:  # it does not know this one either
            if _as_in_float32(older, form, found):
                return True
            continue
        return apart(schema, expected, found) is None
    return False


def _close(expected: Any, found: Any) -> bool:
    """As numbers: equal, or near in the type of ``found`` or float32, whichever rounds more."""
    if expected.shape != found.shape:
        return False
    kind = found.dtype.name if found.dtype.name in ("float16", "bfloat16") else "float32"
    if found.dtype.kind in "iub" and expected.dtype.kind == "f":
        expected = np.trunc(expected)
    one, other = (np.asarray(x).astype(np.float64) for x in (expected, found))
    return _floats(one, other, TOLERANCE[kind]) is None


def difference(expected: Any, found: Any, loose: Mapping[str, float] | None = None) -> str | None:
    """Why two values are not the same; None where they are."""
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"a sequence of {len(expected)}, found {found!r:.60}"
        each = [difference(a, b) for a, b in zip(expected, found, strict=True)]
        return next((reason for reason in each if reason), None)
    if expected is None or found is None:
        return None if expected is found else f"{expected!r:.60}, found {found!r:.60}"
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.dtype == np.uint8 and found.dtype.name.startswith("float8"):
        expected = expected.view(found.dtype)  # ONNX Runtime shows bytes
    if found.dtype.name.startswith("float8"):
        expected, found = expected.astype(np.float32), found.astype(np.float32)
    if expected.dtype.kind in "OU":
        same = expected.astype(str).tolist() == found.astype(str).tolist()
        return None if same else f"{expected.tolist()}, found {found.tolist()}"
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return f"{expected.dtype} {expected.shape}, found {found.dtype} {found.shape}"
    if expected.dtype.kind in "iub":
        wrong = int(np.count_nonzero(expected != found))
        return f"{wrong} of {expected.size} elements" if wrong else None
    tolerance = {**TOLERANCE, **(loose or {})}.get(expected.dtype.name, 0.0)
    return _floats(expected.astype(np.float64), found.astype(np.float64), tolerance)


def _floats(expected: np.ndarray, found: np.ndarray, tolerance: float) -> str | None:
    with np.errstate(invalid="ignore"):
        same = (expected == found) | (np.isnan(expected) & np.isnan(found))
        apart = np.where(same, 0, np.abs(expected - found))
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(float(finite.max()) if finite.size else 0.0, SMALLEST)
    worst = float(apart.max()) / scale if apart.size else 0.0
    return None if worst <= tolerance else f"off by {worst:.2g} of its size"
