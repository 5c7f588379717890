"""Layers with weights: every form of convolution and product, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from lowered import Small, check, ints, refusal, single, steps

from prunedeploy.runtimes.sparse.plan.steps import Conv


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


CONVOLUTIONS = {
    "plain": ((2, 3, 7, 5), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "strided": ((1, 3, 9, 8), (5, 3, 3, 3), {"strides": [2, 3]}),
    "asymmetric pads": ((1, 2, 6, 6), (3, 2, 3, 2), {"pads": [0, 1, 2, 1]}),
    "dilated": ((3, 2, 9, 9), (3, 2, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "grouped": ((1, 6, 5, 5), (4, 3, 3, 3), {"group": 2}),
    "depthwise": ((2, 5, 6, 7), (10, 1, 3, 3), {"group": 5, "strides": [2, 2]}),
    "same upper": ((1, 2, 7, 6), (3, 2, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((1, 2, 7, 6), (3, 2, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    "valid": ((1, 2, 7, 6), (3, 2, 2, 3), {"auto_pad": "VALID"}),
    "one pixel": ((4, 7, 1, 1), (3, 7, 1, 1), {}),
    "sequence": ((2, 3, 11), (4, 3, 3), {"strides": [2], "pads": [2, 1], "dilations": [2]}),
    "grouped sequence": ((1, 4, 17), (4, 2, 5), {"group": 2, "auto_pad": "SAME_UPPER"}),
    "batch of five": ((5, 1, 17, 1), (2, 1, 3, 1), {"pads": [1, 0, 1, 0]}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv(name: str) -> None:
    x, weight, attributes = CONVOLUTIONS[name]
    plan = check(single("Conv", x, normal(*weight), normal(weight[0]), **attributes), x[0])
    assert steps(plan) in ({"Conv": 1, "Copy": 1}, {"Conv": 1, "Copy": 2})
    check(single("Conv", x, normal(*weight), **attributes), x[0])  # without a bias


TRANSPOSED = {
    "twice as large": ((2, 3, 4, 5), (3, 4, 2, 2), {"strides": [2, 2]}),
    "plain": ((1, 3, 4, 5), (3, 2, 3, 3), {}),
    "U-Net": ((1, 2, 4, 4), (2, 3, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "output padding": (
        (2, 2, 5, 4),
        (2, 3, 3, 3),
        {"strides": [2, 3], "pads": [1, 1, 1, 0], "output_padding": [1, 2]},
    ),
    "grouped": ((1, 4, 3, 3), (4, 3, 3, 3), {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "dilated": ((1, 2, 4, 4), (2, 2, 3, 3), {"dilations": [2, 2], "strides": [3, 2]}),
    "pads cut": ((1, 2, 4, 4), (2, 2, 2, 2), {"strides": [2, 2], "pads": [1, 1, 3, 2]}),
    "gaps": ((1, 2, 3, 3), (2, 2, 2, 2), {"strides": [3, 4]}),
    "same": ((1, 2, 4, 5), (2, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "output shape": ((1, 2, 4, 4), (2, 2, 3, 3), {"strides": [2, 2], "output_shape": [8, 8]}),
    "sequence": ((2, 3, 7), (3, 2, 4), {"strides": [2], "pads": [1, 1]}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(name: str) -> None:
    x, weight, attributes = TRANSPOSED[name]
    rows = weight[1] * attributes.get("group", 1)
    check(single("ConvTranspose", x, normal(*weight), normal(rows), **attributes), x[0])


@pytest.mark.parametrize(
    "attributes",
    [{}, {"transB": 1}, {"transA": 1}, {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}],
)
def test_gemm(attributes: dict[str, float]) -> None:
    a = (7, 3) if attributes.get("transA") else (3, 7)
    b = (5, 7) if attributes.get("transB") else (7, 5)
    for c in (normal(5), normal(3, 1), normal(3, 5), normal(1), np.float32(0.5)):
        check(single("Gemm", a, normal(*b), np.asarray(c), **attributes), a[0])
    check(single("Gemm", a, normal(*b), **attributes), a[0])
    check(single("Gemm", normal(*a), b, normal(5), **attributes), b[0])
    check(single("Gemm", a, b, (5,), opset=20, **attributes), a[0])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4, 7), normal(7, 5)),
        ((2, 7), normal(7, 5)),
        ((7,), normal(7, 5)),
        ((3, 7), normal(7)),
        (normal(5, 7), (2, 7, 3)),
        (normal(5, 7), (7, 3)),
        (normal(1, 1, 5, 7), (7, 3)),
        ((2, 3, 5, 7), (2, 3, 7, 4)),
        ((2, 1, 5, 7), (3, 7, 4)),
        ((5, 7), (2, 3, 7, 4)),
        ((2, 5, 7), normal(2, 7, 4)),
        ((5, 7), normal(1, 7, 4)),
        ((4,), (4,)),
    ],
)
def test_matmul(a: tuple[int, ...] | np.ndarray, b: tuple[int, ...] | np.ndarray) -> None:
    first = a if isinstance(a, tuple) else b
    check(single("MatMul", a, b), first[0])


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("bhij,bhjd->bihd", (2, 3, 4, 5), (2, 3, 5, 6)),
        ("nd,md->nm", (3, 4), normal(5, 4)),
        ("abc,cd->abd", (2, 3, 4), normal(4, 5)),
        ("i,j->ij", (3,), (4,)),
    ],
)
def test_einsum(equation: str, a: tuple[int, ...], b: tuple[int, ...] | np.ndarray) -> None:
    check(single("Einsum", a, b, equation=equation), a[0])


def test_einsum_of_other_forms_is_refused() -> None:
    assert refusal(single("Einsum", (3, 3), equation="ii->i"), 3).operator == "Einsum"
    assert refusal(single("Einsum", (3, 4), (3,), equation="ij,i->i"), 3).operator == "Einsum"


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 6), (2, 3)])
def test_batch_normalization(shape: tuple[int, ...]) -> None:
    parameters = [normal(3), normal(3) + 1, normal(3) * 2, np.abs(normal(3)) + 0.5]
    for opset in (9, 14, 20):
        plan = check(single("BatchNormalization", shape, *parameters, opset=opset), shape[0])
        assert steps(plan) == {"Map": 1}


def test_weights_must_be_known() -> None:
    found = refusal(single("Conv", (1, 2, 5, 5), (3, 2, 3, 3)))
    assert (found.operator, found.reason) == ("Conv", "its weight is computed")


def test_four_axes_are_refused() -> None:
    found = refusal(single("Conv", (1, 2, 3, 3, 3, 3), normal(3, 2, 3, 3, 3, 3)))
    assert found.operator == "Conv"
    assert "4 axes" in found.reason


def test_pixels_of_a_linear_layer_lie_as_planes() -> None:
    plan = check(single("MatMul", (3, 17, 8), normal(8, 5)), 3)
    (conv,) = (step for step in plan.steps if isinstance(step, Conv))
    assert conv.x.shape == (1, 8, 1, 51)
    assert conv.x.strides[1] == 64


def test_zero_padding_in_front_of_a_layer_becomes_its_own() -> None:
    net = Small()
    x = net.input(1, 2, 6, 6)
    padded = net.node("Pad", x, ints(0, 0, 1, 2, 0, 0, 0, 1))
    plan = check(net.model(net.conv(padded, 2, 3)))
    assert steps(plan) == {"Copy": 2, "Conv": 1}


def test_chosen_channels_become_columns_of_the_weights() -> None:
    net = Small()
    x = net.conv(net.input(1, 2, 6, 6), 2, 7)
    chosen = net.node("Gather", x, ints(3, 0, 0, 6, 5), axis=1)
    plan = check(net.model(net.conv(chosen, 5, 3)))
    assert steps(plan) == {"Copy": 2, "Conv": 2}
