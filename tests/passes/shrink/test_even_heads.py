"""Exact shrink of heads that lose different dimensions: as many go from each as from the last."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net import Net
from shrinking import Shrunk, shrink

from prunedeploy.passes import PassError
from prunedeploy.passes.shrink import even_heads

HEADS, SIZE, WIDTH, TOKENS = 3, 4, 5, 6
ALL = HEADS * SIZE
SCATTERED = [1, 2, 4, 7, 8, 10, 11]  # two, two and three dimensions of the heads
SETS = st.sets(st.integers(0, ALL - 1), max_size=9).map(sorted)


def attention(
    q: object = (),
    k: object = (),
    v: object = (),
    o: object = (),
    *,
    constant: float = 0.0,
    plain: bool = False,
    reader: str = "MatMul",
    between: str = "",
    shifted: bool = False,
) -> ir.Model:
    """Self-attention of tokens; ``q``, ``k``, ``v`` are rows without weights, ``o`` such columns.

    The rows of ``v`` hold ``constant``. ``plain`` has no softmax, ``between`` an operator behind
    the split of the values, ``shifted`` adds to the queries behind the split.
    """
    net = Net()
    x = net.node("Reshape", "input", net.weight(np.array([0, WIDTH, -1])))
    x = net.node("Transpose", x, perm=[0, 2, 1])  # [batch, tokens, width]

    def heads(name: str, dead: object, held: float, perm: list[int]) -> str:
        weight, bias = (net.random.standard_normal(shape) for shape in ((WIDTH, ALL), (ALL,)))
        weight[:, list(dead)], bias[list(dead)] = 0, held
        y = net.node("MatMul", x, net.weight(weight, f"{name}.weight"))
        y = net.node("Add", y, net.weight(bias, f"{name}.bias"))
        y = net.node("Reshape", y, net.weight(np.array([0, 0, HEADS, SIZE])))
        return net.node("Transpose", y, perm=perm)

    queries = heads("q", q, 0.0, [0, 2, 1, 3])
    queries = net.node("Mul", queries, net.weight(np.array(0.5)))
    if shifted:
        queries = net.node("Add", queries, net.weight(np.array(0.25)))
    values = heads("v", v, constant, [0, 2, 1, 3])
    if between:
        values = net.node(between, values)
    scores = net.node("MatMul", queries, heads("k", k, 0.0, [0, 2, 3, 1]))
    shares = scores if plain else net.node("Softmax", scores, axis=-1)
    y = net.node("Transpose", net.node("MatMul", shares, values), perm=[0, 2, 1, 3])
    y = net.node("Reshape", y, net.weight(np.array([0, 0, ALL])))
    if reader == "Relu":
        y = net.node("Relu", y)
    weight = net.random.standard_normal((ALL, WIDTH))
    weight[list(o)] = 0
    return net.model(net.node("MatMul", y, net.weight(weight, "o.weight")))


def left(found: Shrunk) -> dict[str, int]:
    """How many queries, keys and values are made, and how many columns are read."""
    arrays = found.model.graph.initializers
    sizes = {name: arrays[f"{name}.weight"].const_value.shape for name in "qkvo"}
    return {name: shape[0 if name == "o" else 1] for name, shape in sizes.items()}


def dims(removed: int) -> int:
    return ALL - HEADS * removed


def operators(found: Shrunk) -> set[str]:
    return {node.op_type for node in found.model.graph}


def test_values_lose_as_many_of_each_head() -> None:
    found = shrink(attention(v=SCATTERED))
    assert left(found) == {"q": ALL, "k": ALL, "v": dims(2), "o": dims(2)}
    assert "Gather" not in operators(found)


def test_columns_that_nobody_reads() -> None:
    assert left(shrink(attention(o=SCATTERED)))["v"] == dims(2)


def test_a_dimension_may_be_dead_for_either_reason() -> None:
    assert left(shrink(attention(v=[1, 4, 8], o=[2, 7, 10])))["v"] == dims(2)


def test_queries_and_keys_lose_pairs_of_which_one_is_dead() -> None:
    found = shrink(attention(q=[1, 4, 8], k=[2, 7, 10]))
    assert left(found) == {"q": dims(2), "k": dims(2), "v": ALL, "o": ALL}


def test_constants_go_into_the_bias_behind_a_softmax_only() -> None:
    assert left(shrink(attention(v=SCATTERED, constant=0.7)))["v"] == dims(2)
    assert left(shrink(attention(v=SCATTERED, constant=0.7, plain=True)))["v"] == ALL
    assert left(shrink(attention(v=SCATTERED, plain=True)))["v"] == dims(2)


def test_a_negated_constant() -> None:
    found = shrink(attention(v=SCATTERED, constant=0.7, between="Neg"))
    assert left(found)["v"] == dims(2)


def test_a_head_without_a_dead_dimension_keeps_all_of_all_and_is_the_reason() -> None:
    found = shrink(attention(v=[0, 1, 5]))
    assert left(found)["v"] == ALL
    (note,) = [note for note in found.result.notes if note.status == "refused"]
    assert (note.code, note.count) == ("unequal-heads", 3)


def test_a_whole_head_goes_besides() -> None:
    found = shrink(attention(v=[0, 1, 2, 3, 5, 10]))
    assert left(found) == {"q": 8, "k": 8, "v": 6, "o": 6}


@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_a_head_that_is_dead_for_two_reasons_goes_whole(constant: float) -> None:
    found = shrink(attention(v=[0, 1], o=[2, 3], constant=constant))
    assert left(found) == {"q": 8, "k": 8, "v": 8, "o": 8}


@pytest.mark.parametrize(
    "options", [{"reader": "Relu"}, {"between": "Sigmoid"}, {"between": "Softplus"}]
)
def test_what_is_not_understood_keeps_everything(options: dict[str, str]) -> None:
    assert left(shrink(attention(v=SCATTERED, **options)))["v"] == ALL


def test_an_addition_behind_the_split_makes_zero_another_number() -> None:
    found = shrink(attention(q=SCATTERED, shifted=True))
    assert left(found)["q"] == ALL


@pytest.mark.parametrize(("align", "kept"), [(1, 6), (9, 9), (4, 12)])
def test_alignment_counts_all_heads(align: int, kept: int) -> None:
    assert left(shrink(attention(v=SCATTERED), align=align))["v"] == kept


@settings(max_examples=8, deadline=None)
@given(q=SETS, k=SETS, v=SETS, o=SETS, constant=st.sampled_from([0.0, -0.3]))
def test_any_dimensions(
    q: list[int], k: list[int], v: list[int], o: list[int], constant: float
) -> None:
    """What is left is what the fullest head needs, the heads without values being gone."""
    found = shrink(attention(q, k, v, o, constant=constant))
    values, pairs = (
        np.isin(np.arange(ALL), [*one, *other]).reshape(HEADS, SIZE)
        for one, other in ((v, o), (q, k))
    )
    sizes = left(found)
    assert sizes["v"] == sizes["o"] <= HEADS * max(1, (~values).sum(1).max())
    assert sizes["q"] == sizes["k"] <= HEADS * max(1, (~pairs).sum(1).max())


@pytest.mark.parametrize("broken", ["dims of another head", "constants forgotten"])
def test_a_planted_bug_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, model = even_heads._narrow, attention(v=SCATTERED, constant=0.7)
    if broken == "constants forgotten":
        monkeypatch.setattr(even_heads, "bias_rows", lambda layer: np.zeros(1))
        monkeypatch.setattr(even_heads, "contribution", lambda layer, going: np.zeros(WIDTH))
    else:
        monkeypatch.setattr(even_heads, "_narrow", lambda each, stays: narrow(each, stays[::-1]))
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(model)
