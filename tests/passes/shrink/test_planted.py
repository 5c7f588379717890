"""A bug planted in any one row of the tables of operators is found by the random networks.

The planted bugs are those that happen: axes that should be tied are not, a constant is wrong, a
node is not adapted to the narrower tensors, what an operator needs of an axis it mixes is
forgotten, and a layer is read wrongly.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir
import pytest
from generators import grow

from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, ShrinkChannels, run
from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import Operator
from prunedeploy.passes.operators.table import OPERATORS
from prunedeploy.reference import verify

pytestmark = pytest.mark.slow

GRAPHS = 120  # at most; most planted bugs are found among the first five


def _loose(found: Operator) -> Operator:
    """The result's axes are tied to nothing."""

    couple_right = found.couple
    assert couple_right is not None

    def couple(node: ir.Node, axes: Axes) -> None:
        couple_right(node, axes)
        for value in node.outputs:
            for axis in range(rank(value) or 0):
                size = static_size(value, axis)
                if size is not None and not axes.is_pinned(axes.of(value, axis)).all():
                    axes._labels[value, axis] = axes.fresh(size)

    return replace(found, couple=couple)


def _uncoupled(found: Operator) -> Operator:
    """Nothing is said about the axes at all."""
    return replace(found, couple=lambda _node, _axes: None)


def _passing(found: Operator) -> Operator:
    """All axes pass, as if no index met another."""

    def couple(node: ir.Node, axes: Axes) -> None:
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None
        for axis in range(rank(result) or 0):
            axes.assign(result, axis, axes.of(source, axis))

    return replace(found, couple=couple)


def _wrong_constants(found: Operator) -> Operator:
    """Constants come out a quarter too large."""
    assert found.constants is not None
    constants = found.constants

    def wrong(node: ir.Node, facts: Facts) -> None:
        constants(node, facts)
        for value in node.outputs:
            for axis in range(rank(value) or 0):
                known = facts.of(value, axis)
                if known is not None:
                    facts.learn(value, axis, known + 0.25)

    return replace(found, constants=wrong)


def _unedited(found: Operator) -> Operator:
    return replace(found, edit=lambda _node, _keep: None)


def _unread(found: Operator) -> Operator:
    return replace(found, reads=lambda _node, _facts: [])


PLANTED: list[tuple[str, str, Operator]] = []
LAYERS = [name for name, record in OPERATORS.items() if record.layer is not None]
for _operator, _record in OPERATORS.items():
    if _record.couple is None:
        continue
    # who only asks for a shape has no result to come loose, nor has who pins all its channels
    _coupling = {"LRN": _passing, "Shape": _uncoupled}.get(_operator, _loose)
    if _operator != "ConstantOfShape":  # its result is tied to nothing as it is
        PLANTED.append((_operator, "couple", _coupling(_record)))
    # LRN pins its channels, and the other norm is grown on what varies
    statistics = _operator in ("LRN", "MeanVarianceNormalization")
    if _record.constants is not None and not statistics:
        PLANTED.append((_operator, "constants", _wrong_constants(_record)))
    if _record.edit is not None:
        PLANTED.append((_operator, "edit", _unedited(_record)))
    if _record.reads is not None:
        PLANTED.append((_operator, "reads", _unread(_record)))


def found_by_random_networks(operator: str) -> bool:
    """Whether the runner catches the pass on a network that holds the operator."""
    for seed in range(GRAPHS):
        model = grow(random.Random(seed), operator)
        feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=seed)
        try:
            run(model, (ShrinkChannels(),), feeds)
        except PassError:
            return True
        except (ValueError, IndexError, AssertionError):
            return True  # the pass trips over its own plan
    return False


@pytest.mark.parametrize(
    ("operator", "planted"),
    [(operator, planted) for operator, _, planted in PLANTED],
    ids=[f"{operator}-{field}" for operator, field, _ in PLANTED],
)
def test_a_bug_planted_in_a_record_is_found(
    operator: str, planted: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, operator, planted)
    assert found_by_random_networks(operator)


LAYER_BUGS: dict[str, Callable[[Layer], Layer]] = {
    "products are scaled": lambda layer: replace(layer, scale=2 * layer.scale),
    "the bias is not seen": lambda layer: replace(layer, bias_input=None),
    "padding is forgotten": lambda layer: replace(layer, uniform=True),
}


@pytest.mark.parametrize("bug", LAYER_BUGS)
@pytest.mark.parametrize("operator", LAYERS)
def test_a_bug_planted_in_a_layer_is_found(
    operator: str, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = OPERATORS[operator]
    read = record.layer
    assert read is not None

    def wrong(node: ir.Node) -> Layer | None:
        found = read(node)
        return LAYER_BUGS[bug](found) if found is not None else None

    if operator in ("Gemm", "MatMul") and bug == "padding is forgotten":
        pytest.skip("it has no padding")
    if operator == "MatMul" and bug == "the bias is not seen":
        pytest.skip("it has no bias")
    if operator == "ConvTranspose" and bug == "products are scaled":
        pytest.skip("its constants are merged into a channel, which no scale changes")
    monkeypatch.setitem(OPERATORS, operator, replace(record, layer=wrong))
    assert found_by_random_networks(operator)


def test_without_a_bug_nothing_is_found() -> None:
    assert not found_by_random_networks("Conv")
