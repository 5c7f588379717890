"""The interpreter against ONNX Runtime: every operator, every version since opset 7, every form.

What ONNX Runtime cannot run is compared with what else there is, and counted; ``not_compared.txt``
holds how many forms of each version are left that nothing here agrees with, so that their number
does not grow unseen. Where the two differ, ``forms/known.py`` says why, or the test fails.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import onnx
import pytest
from forms import base, compare, known
from forms.derived import derived

from prunedeploy.core.errors import UserError
from prunedeploy.reference import reductions
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.randoms import OPERATORS as RANDOM
from prunedeploy.reference.registry import BUILDERS, KERNELS, NEWEST, NOT_EVALUATED

RECORD = Path(__file__).with_name("not_compared.txt")
OPERATORS = [name for name in base.versions() if name not in NOT_EVALUATED]


def recorded() -> dict[str, int]:
    """Operator and version -> forms that nothing was found to compare with."""
    lines = [line.split() for line in RECORD.read_text().splitlines() if line[:1].isalpha()]
    return {name: int(count) for name, count, *_ in lines}


def schemas(operator: str) -> list[base.Schema]:
    return [schema for schema in base.versions()[operator] if not schema.deprecated]


COMPARED = [name for name in OPERATORS if name not in RANDOM]
EVERY = 12  # of the forms of a version, in what is quick


@pytest.mark.parametrize("operator", COMPARED)
def test_a_sample_of_the_forms_is_that_of_onnxruntime(operator: str) -> None:
    for schema in schemas(operator):
        for form in itertools.islice(base.forms(schema), 0, None, EVERY):
            found = compare.outcome(schema, form)
            if not known.known(operator, found.status, form.label):
                assert found.status not in ("differ", "refused"), (schema, form.label, found)


@pytest.mark.slow
@pytest.mark.parametrize("operator", COMPARED)
def test_forms_in_other_types_and_with_more_attributes(operator: str) -> None:
    """What is no form at all is refused by both; nothing else is, and nothing differs."""
    for schema in schemas(operator):
        for form in derived(schema):
            found = compare.outcome(schema, form)
            if not known.known(operator, found.status, form.label):
                assert found.status not in ("differ", "refused"), (schema, form.label, found)


@pytest.mark.slow
@pytest.mark.parametrize("operator", COMPARED)
def test_a_version_is_the_same_in_its_last_opset(operator: str) -> None:
    for schema in schemas(operator):
        for form in itertools.islice(base.forms(schema), 0, None, EVERY):
            first, last = (base.model(schema, form, v) for v in (0, base.last_opset(schema)))
            try:
                expected = compare.ours(first, base.feeds(form))
            except UserError:  # refused in every opset
                continue
            found = compare.ours(last, base.feeds(form))
            assert compare.apart(schema, expected, found) is None, (schema, form.label)


@pytest.mark.slow
@pytest.mark.parametrize("operator", COMPARED)
def test_every_form_is_that_of_onnxruntime(operator: str) -> None:
    wrong, left = [], recorded()
    for schema in schemas(operator):
        counts: Counter[str] = Counter()
        alone = []
        for form in base.forms(schema):
            found = compare.outcome(schema, form)
            counts[found.status] += 1
            where = f"{operator}-{schema.since_version} ({form.label}): {found.reason}"
            if found.status == "not compared":
                alone.append(where)
            elif found.status in ("differ", "refused") and not known.known(
                operator, found.status, form.label
            ):
                wrong.append(f"{found.status}: {where}")
        print(f"{operator}-{schema.since_version}:", dict(counts), *alone, sep="\n  ")
        if len(alone) > left.get(f"{operator}-{schema.since_version}", 0):
            wrong += [f"compared with nothing: {line}" for line in alone]
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_forms_cover_the_schema(operator: str) -> None:
    """Every attribute set and left out, every optional input and output, every type of seven."""
    for schema in schemas(operator):
        forms = list(base.forms(schema))
        missing = [*_attributes(schema, forms), *_inputs(schema, forms), *_types(schema, forms)]
        missing = [m for m in missing if (operator, m) not in NOT_COVERED]
        assert not missing, f"{operator}-{schema.since_version}: {missing}"


# Hints that change no result, and what would be a form of its own.
NOT_COVERED = {
    ("Constant", "sparse_value set"),  # refused
    ("Constant", "value left out"),  # the only one there is before opset 12
    ("Dropout", "output mask"),  # before opset 12 not defined where nothing is dropped: refused
    ("RegexFullMatch", "pattern left out"),  # there is nothing to match
    ("LinearAttention", "chunk_size set"),
    ("Optional", "type left out"),
}


def _attributes(schema: base.Schema, forms: list[base.Form]) -> list[str]:
    missing = []
    for name, attribute in schema.attributes.items():
        if not any(name in form.attributes for form in forms):
            missing.append(f"{name} set")
        if not attribute.required and all(name in form.attributes for form in forms):
            missing.append(f"{name} left out")
    return missing


def _inputs(schema: base.Schema, forms: list[base.Form]) -> list[str]:
    missing = []
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    for index, formal in enumerate(schema.inputs):
        if formal.option == optional:
            given = {len(f.inputs) > index and f.inputs[index] is not None for f in forms}
            missing += [f"input {formal.name} {wanted}" for wanted in {True, False} - given]
    for index, formal in enumerate(schema.outputs):
        if formal.option == optional and not any(f.outputs > index for f in forms):
            missing.append(f"output {formal.name}")
    return missing


def _types(schema: base.Schema, forms: list[base.Form]) -> list[str]:
    """The types of the first input; those of the others mostly follow it."""
    if not schema.inputs:
        return []
    seen = {getattr(f.inputs[0], "dtype", None) for f in forms if f.inputs}
    return [dtype for dtype in base.allowed(schema) if dtype not in {str(kind) for kind in seen}]


def test_every_operator_and_version_is_in_one_table() -> None:
    """So that a version which onnx brings is refused until somebody has looked at it."""
    assert not set(KERNELS) & set(BUILDERS)
    tables = {**KERNELS, **BUILDERS}
    assert set(tables) | set(NOT_EVALUATED) == set(base.versions())
    assert onnx.defs.onnx_opset_version() <= NEWEST
    for operator, versions in tables.items():
        known_here = {version: entry is not None for version, entry in versions.items()}
        onnx_has = {
            s.since_version: not s.deprecated or operator == "GroupNormalization"
            for s in base.versions()[operator]
        }
        assert known_here == onnx_has, operator


def test_the_record_has_no_version_that_is_gone() -> None:
    have = {f"{name}-{s.since_version}" for name in OPERATORS for s in schemas(name)}
    assert set(recorded()) <= have


def test_a_kernel_of_the_wrong_version_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin that is broken: Softmax of opset 13 for all, of which the comparison must tell."""
    newest = reductions.TABLE["Softmax"][13]
    monkeypatch.setitem(KERNELS, "Softmax", {1: newest, 11: newest, 13: newest})
    found = {
        schema.since_version: {compare.outcome(schema, f).status for f in base.forms(schema)}
        for schema in schemas("Softmax")
    }
    assert "differ" in found[1]
    assert "differ" in found[11]
    assert "differ" not in found[13]


@pytest.mark.parametrize("operator", sorted(RANDOM))
def test_random_numbers_have_the_shape_and_type_asked_for(operator: str) -> None:
    import onnx_ir as ir

    for schema in schemas(operator):
        for form in base.forms(schema):
            proto = base.model(schema, form)
            once, again = (
                next(iter(Evaluator(ir.from_proto(proto)).run(base.feeds(form)).values()))
                for _ in range(2)
            )
            try:
                (expected,) = compare.session(proto).run(None, base.feeds(form))
            except Exception:  # a version or type that ONNX Runtime does not have
                continue
            assert (once.shape, once.dtype) == (expected.shape, expected.dtype), form.label
            if "seed" in form.attributes:
                assert (once == again).all()


def test_what_is_known_to_differ_still_does() -> None:
    """With the versions that are pinned: a row that holds no more is to go."""
    import onnxruntime

    if onnxruntime.__version__ != "1.31.1" or onnx.__version__ != "1.23.2":
        pytest.skip("the rows are of the versions that are pinned")
    for row in known.KNOWN:
        found = (
            compare.outcome(schema, form)
            for schema in schemas(row.operator)
            for form in base.forms(schema)
            if row.holds(row.operator, row.status, form.label)
        )
        assert any(each.status == row.status for each in found), row
