"""Which layers of a GPU are predicted to be faster sparse; all figures are the model's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lowered import Small

from prunedeploy import targets
from prunedeploy.engines import choice
from prunedeploy.graph import model as models
from prunedeploy.prediction.gpu_choice import LayerChoice, layer_choices, sentence
from prunedeploy.prediction.predict import predict
from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.runtimes.registry import automatic
from prunedeploy.targets.gpu import GPUS


def two_layers(folder: Path, channels: int = 256) -> Path:
    """A layer with one weight in fifty, then a dense one."""
    net = Small()
    x = net.input("n", channels, 28, 28)
    sparse = net.normal(channels, channels, 3, 3)
    sparse[net.random.random(sparse.shape) < 0.98] = 0
    y = net.node("Relu", net.node("Conv", x, sparse, net.normal(channels), pads=[1, 1, 1, 1]))
    y = net.conv(y, channels, channels)
    path = folder / "net.onnx"
    models.save(net.model(y), path)
    return path


@pytest.mark.parametrize("target", ["jetson-nano", "h100"])
def test_zeros_pay_where_there_are_many(tmp_path: Path, target: str) -> None:
    first, second = layer_choices(two_layers(tmp_path), targets.by_name(target), 1)
    assert first.density == pytest.approx(0.02, abs=2e-3)
    assert second.density == 1
    assert first.is_sparse == (target == "jetson-nano")  # which has no tensor cores
    assert not second.is_sparse
    assert first.precision == "float16"


def test_a_dense_layer_takes_its_multiply_adds_at_the_peak(tmp_path: Path) -> None:
    machine = targets.by_name("jetson-nano")
    _, dense = layer_choices(two_layers(tmp_path), machine, 2)
    flops = 2 * 256 * 256 * 9 * 2 * 28 * 28
    launch = GPUS["jetson-nano"].launch
    assert dense.dense == pytest.approx(flops / machine.peak("float16") + launch)


def test_the_sentence_counts_and_says_what_the_others_wait_for() -> None:
    fast = LayerChoice("a", 0.1, 1e-3, "fma", 2e-3, "float16")
    slow = replace(fast, sparse=3e-3, limit="code")
    assert sentence([fast, slow, slow]) == (
        "1 of 3 layers are predicted to be faster with their zeros left out than dense in "
        "float16; all together 7 ms against 6 ms; what the others wait for is mostly code, "
        "16 bytes a non-zero"
    )
    assert "wait" not in sentence([fast])
    assert sentence([]) == "no layer has weights"


@pytest.mark.parametrize(
    ("target", "runtime"), [("rtx2080ti", "sparse"), ("jetson-nano", "sparse-gpu")]
)
def test_predictions_and_choices_say_it(tmp_path: Path, target: str, runtime: str) -> None:
    path, machine = two_layers(tmp_path, 24), targets.by_name(target)
    made = predict(path, target, runtime)
    assert made.forecast.runtime == runtime
    assert made.notes == (sentence(layer_choices(path, machine, 1)),)
    names = automatic(machine)
    assert runtime not in names
    chosen = choice.predicted([path], machine, names, BuildOptions())
    assert chosen.runtime != runtime
    (reason,) = (each.reason for each in chosen.refused if each.runtime == runtime)
    assert reason == f"no GPU was measured: it is asked for by name; {made.notes[0]}"


def test_on_a_board_the_processor_and_the_gpu_are_two_runtimes(tmp_path: Path) -> None:
    path = two_layers(tmp_path, 24)
    on_cpu, on_gpu = (predict(path, "jetson-nano", name) for name in ("sparse", "sparse-gpu"))
    assert on_cpu.basis != on_gpu.basis
    assert {layer.limit for layer in on_gpu.layers}.isdisjoint({"compute", "memory"})


def test_a_model_that_no_kernel_computes_has_no_forecast_of_it(tmp_path: Path) -> None:
    net = Small()
    path = tmp_path / "net.onnx"
    models.save(net.model(net.node("Gemm", net.input("n", 4), np.eye(4, dtype=np.float32))), path)
    chosen = choice.predicted([path], targets.by_name("a100"), ["tensorrt"], BuildOptions())
    assert [each.runtime for each in chosen.refused] == ["sparse"]
