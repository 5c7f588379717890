"""The sparse runtime's importer on networks of every opset, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from lowered import Small, check, refusal, single
from opset_nets import CASES, network

from prunedeploy.runtimes.sparse.plan.steps import Plan

REFUSED = {"norm_in_training": "statistics of the batch"}


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_every_opset(name: str, opset: int) -> None:
    model = network(name, opset)
    if name in REFUSED:
        assert REFUSED[name] in refusal(model, 2).reason
    else:
        assert isinstance(check(model, 2), Plan)


@pytest.mark.parametrize("outputs", [1, 5])
def test_normalisation_behind_no_layer(outputs: int) -> None:
    net = Small(9)
    vectors = [net.normal(3) for _ in range(3)]
    x = net.input(2, 3, 4, 4)
    found = net.node("BatchNormalization", x, *vectors, np.abs(net.normal(3)) + 1, outputs=outputs)
    model = net.model(found if isinstance(found, str) else found[0])
    if outputs == 1:
        check(model, 2)
    else:
        assert "statistics of the batch" in refusal(model, 2).reason


def test_parameters_of_every_element_are_refused() -> None:
    net = Small(7)
    arrays = [net.normal(3, 4, 4) for _ in range(3)]
    x = net.input(2, 3, 4, 4)
    y = net.node("BatchNormalization", x, *arrays, np.abs(net.normal(3, 4, 4)) + 1, spatial=0)
    assert "every element" in refusal(net.model(y), 2).reason


def test_an_operator_that_onnx_has_withdrawn_is_refused() -> None:
    model = single("Upsample", (1, 2, 4, 4), np.array([1, 1, 2, 2], np.float32), opset=9)
    check(model)
    model.graph.opset_imports[""] = 13
    assert "withdrawn" in refusal(model).reason


def test_a_version_that_is_newer_than_what_is_known_is_refused() -> None:
    model = single("Relu", (1, 2, 4, 4))
    model.graph.opset_imports[""] = 99
    assert "newer" in refusal(model).reason


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_pixels_become_channels_in_both_orders(mode: str) -> None:
    """ONNX Runtime does not know opset 28 yet: the interpreter is the oracle here."""
    from lowered import agree
    from plan_interpreter import evaluate

    from prunedeploy.reference.evaluate import Evaluator
    from prunedeploy.runtimes.sparse.plan.lower import lower

    model = single("SpaceToDepth", (1, 3, 4, 6), opset=28, blocksize=2, mode=mode)
    plan = lower(model, 1, {})
    assert isinstance(plan, Plan)
    random = np.random.default_rng(0)
    feeds = {p.name: random.standard_normal(p.shape, np.float32) for p in plan.inputs}
    (wanted,) = Evaluator(model).run(feeds).values()
    (found,) = evaluate(plan, feeds, np.float64).values()
    agree(found, wanted)


def test_a_window_of_keys_is_refused() -> None:
    model = single("Attention", *[(1, 2, 4, 8)] * 3, opset=25, left_window_size=1)
    assert "window" in refusal(model).reason
