"""Transformers as torch exports them: all of attention through views, hardly a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from encoders import Attention, Encoder, Generator, Vision
from lowered import Small, check, refusal, single, steps
from torch import nn

from prunedeploy.runtimes.sparse.plan.steps import MatMul

BATCH = torch.export.Dim("batch")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def export(
    module: nn.Module, arguments: tuple[Any, ...], folder: Path, dims: Any = None
) -> ir.Model:
    path = folder / "model.onnx"
    shapes = dims or tuple({0: BATCH} for _ in arguments)
    torch.onnx.export(
        module.eval(),
        arguments,
        path,
        dynamo=True,
        opset_version=20,
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    return ir.load(path)


def export_older(module: nn.Module, arguments: tuple[Any, ...], folder: Path) -> ir.Model:
    """By the tracing exporter, for an opset that has neither LayerNormalization nor Gelu."""
    path = folder / "model.onnx"
    names = [f"in{i}" for i in range(len(arguments))]
    torch.onnx.export(
        module.eval(),
        arguments,
        path,
        dynamo=False,
        opset_version=14,
        input_names=names,
        dynamic_axes={name: {0: "batch"} for name in names},
    )
    return ir.load(path)


def tokens(model: ir.Model, batch: int, length: int = 12) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch)
    mask = np.ones((batch, length), np.int64)
    mask[0, 7:] = 0
    values = (random.integers(0, 50, (batch, length)), mask)
    return {str(v.name): a for v, a in zip(model.graph.inputs, values, strict=False)}


@pytest.mark.parametrize("older", [False, True])
def test_an_encoder_copies_its_mask_and_nothing_in_its_layers(tmp_path: Path, older: bool) -> None:
    example = (torch.randint(0, 50, (2, 12)), torch.ones(2, 12, dtype=torch.int64))
    module = Encoder(fused=not older)
    model = (export_older if older else export)(module, example, tmp_path)
    for batch in (1, 3):
        plan = check(model, batch, feeds=tokens(model, batch))
        found = steps(plan)
        # of a batch also the first tokens, for their planes, and what the head makes of them
        assert found.pop("Copy") == (2 if batch == 1 else 3)
        assert found == {
            "Lookup": 1,
            "Map": 2,  # the sum of the embeddings, and the mask
            "Norm": 5,
            "Conv": 2 * 4 + 1,  # queries, keys and values are one
            "MatMul": 4,
            "Softmax": 2,
        }
        masked = [s for s in plan.steps if isinstance(s, MatMul) and s.bias is not None]
        assert len(masked) == 2
        assert all(step.alpha == pytest.approx(8**-0.5) for step in masked)


def test_a_vision_transformer(tmp_path: Path) -> None:
    model = export(Vision(), (torch.randn(2, 3, 32, 32),), tmp_path)
    for batch in (1, 2):
        found = steps(check(model, batch))
        # the image, the token and the patches into one tensor, the first token again
        assert found.pop("Copy") == (4 if batch == 1 else 5)
        assert found == {"Conv": 10, "Map": 1, "Norm": 5, "MatMul": 4, "Softmax": 2}


def test_a_generator_of_any_length(tmp_path: Path) -> None:
    dims = ({0: BATCH, 1: torch.export.Dim("length", max=12)},)
    model = export(Generator(), (torch.randint(0, 50, (2, 11)),), tmp_path, dims)
    for batch, length in ((1, 7), (2, 5)):
        feeds = tokens(model, batch, length)
        plan = check(model, batch, {"length": length}, feeds)
        assert steps(plan)["Copy"] == 1  # what comes out


@pytest.mark.parametrize("older", [False, True])
def test_torch_attention(tmp_path: Path, older: bool) -> None:
    model = (export_older if older else export)(Attention(), (torch.randn(2, 9, 32),), tmp_path)
    for batch in (1, 2):
        found = steps(check(model, batch))
        assert found == {"Copy": 1, "Conv": 2, "MatMul": 2, "Softmax": 1, "Map": 1, "Norm": 1}


HEADS = {"q_num_heads": 4, "kv_num_heads": 4}
ATTENTION: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "four axes": ([(2, 4, 5, 8), (2, 4, 6, 8), (2, 4, 6, 3)], {}),
    "three axes": ([(2, 5, 32), (2, 6, 32), (2, 6, 12)], HEADS),
    "scale": ([(2, 5, 32), (2, 5, 32), (2, 5, 32)], {**HEADS, "scale": 0.5}),
    "shared keys": ([(2, 4, 5, 8), (2, 2, 6, 8), (2, 2, 6, 8)], {}),
    "causal": ([(2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 5, 8)], {"is_causal": 1}),
    "mask": ([(2, 4, 5, 8), (2, 4, 6, 8), (2, 4, 6, 8), (5, 6)], {}),
    "mask of heads": ([(2, 4, 5, 8), (2, 2, 6, 8), (2, 2, 6, 8), (2, 4, 5, 6)], {}),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_as_one_operator(name: str) -> None:
    inputs, attributes = ATTENTION[name]
    plan = check(single("Attention", *inputs, opset=23, **attributes), 2)
    found = steps(plan)
    assert found.pop("Softmax") == 1
    assert found == {"MatMul": 2}


def test_attention_hides_what_a_truth_value_says() -> None:
    net = Small(23)
    names = [net.input(2, 4, n, 8) for n in (5, 6, 6)]
    mask = net.input(5, 6, dtype=np.bool_)
    model = net.model(net.node("Attention", *names, mask))
    feeds = {name: net.normal(2, 4, n, 8) for name, n in zip(names, (5, 6, 6), strict=True)}
    feeds[mask] = np.tri(5, 6, 1).astype(bool)
    check(model, 2, feeds=feeds)


def test_attention_to_the_past_is_refused() -> None:
    shape = (2, 4, 5, 8)
    model = single("Attention", shape, shape, shape, None, shape, shape, opset=23, outputs=3)
    assert "past" in refusal(model, 2).reason
