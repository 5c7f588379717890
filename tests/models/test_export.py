"""Every family goes through the exporter with a dynamic batch dimension and comes out the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunedeploy.models import by_name
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import export

# ImageNet networks on small images, but for VGG: its 7x7 pooling exports from 7x7 maps only.
FAMILIES = {
    "resnet18": 64,
    "resnet50_cifar": 32,
    "vgg11": 224,
    "vgg16_bn_cifar": 32,
    "mobilenet_v1": 64,
    "mobilenet_v2": 64,
    "densenet121": 64,
    "squeezenet1_0": 64,
    "resnet20": 32,
    "wide_resnet28_10": 32,
    "wide_resnet32_2": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), FAMILIES.items())
def test_exports_with_a_dynamic_batch(
    name: str, side: int, narrowed, with_weights, tmp_path: Path
) -> None:
    recipe = by_name(name)
    shapes = narrowed(recipe, 8) | {"normalize.mean": (3,), "normalize.std": (3,)}
    network = with_weights(recipe, shapes)
    model = Evaluator(export(network, (1, 3, side, side), tmp_path / "model.onnx"))
    for batch in (1, 3):
        image = torch.rand(batch, 3, side, side)
        with torch.inference_mode():
            expected = network(image).numpy()
        (found,) = model.run({"input": image.numpy()}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
