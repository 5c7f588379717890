"""Random networks of every opset through the whole of ``shrink``, held against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from grown import OPSETS, outcome
from old_forms import available


def _check(opset: int, seed: int, folder: Path) -> bool:
    """Whether it got smaller; what ONNX Runtime itself has no numbers for is refused."""
    found = outcome(opset, seed, folder)
    assert found.status in ("same", "rounding") or "nan" in found.reason, found
    return found.after < found.before


@pytest.mark.parametrize("opset", OPSETS)
def test_a_network_of_every_opset(opset: int, tmp_path: Path) -> None:
    assert any(_check(opset, seed, tmp_path) for seed in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_many_networks_of_every_opset(opset: int, tmp_path: Path) -> None:
    assert sum(_check(opset, seed, tmp_path) for seed in range(2, 27)) > 15


@pytest.mark.parametrize(
    ("operator", "since"), [("Gelu", 20), ("Upsample", 7), ("Equal", 11), ("Conv", 7)]
)
def test_operators_are_grown_where_they_are(operator: str, since: int) -> None:
    there = [opset for opset in OPSETS if available(operator, opset)]
    assert there[0] == since
    assert (25 in there) == (operator != "Upsample")
