"""Every reference network at opset 13, beside its original, in ONNX Runtime.

    python benchmarks/opset.py [--folder FOLDER] [NAME ...]

Random weights, a third of the BatchNorm channels dead, exported at opset 20 with IR 10, then
through all passes, then lowered to opset 13 with IR 7. Prints the largest difference between the
lowered model and the one before. With ``--folder`` it leaves, for each network, the lowered model,
one input and the result there, so that an older ONNX Runtime can be tried on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import nn

from prunedeploy import passes
from prunedeploy.models import RECIPES, Recipe
from prunedeploy.passes.opset import LowerOpset
from prunedeploy.shrinking.export import to_model


def shrunk(recipe: Recipe) -> ir.Model:
    """The network exported and shrunk."""
    torch.manual_seed(0)
    module = recipe.factory().eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                dead = len(each.weight) // 3
                each.weight[:dead], each.bias[:dead] = 0, 0.1
    model = to_model(module, (1, *recipe.input_shape))
    for step in passes.DEFAULT:
        step(model)
    return model


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The network's output."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": images})
    return np.asarray(output)


def check(recipe: Recipe, folder: Path | None) -> None:
    """One line of the table."""
    model = shrunk(recipe)
    images = np.random.default_rng(0).standard_normal((1, *recipe.input_shape), np.float32)
    before = run(ir.to_proto(model), images)
    assert LowerOpset(13, 7)(model).changed
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered, full_check=True)
    after = run(lowered, images)
    difference = float(np.abs(after - before).max())
    print(
        f"{recipe.name:18} {len(lowered.graph.node):5} nodes  difference {difference:g}", flush=True
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(lowered, folder / f"{recipe.name}.onnx")
        np.savez(folder / f"{recipe.name}.npz", input=images, output=after)


def main() -> None:
    """Parse and go through the networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    for recipe in RECIPES:
        if not given.names or recipe.name in given.names:
            check(recipe, given.folder)


if __name__ == "__main__":
    main()
