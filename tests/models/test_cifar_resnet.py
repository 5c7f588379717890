from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunedeploy.models import by_name, recognise


@pytest.mark.parametrize(
    ("file", "name", "correct"),
    [
        ("resnet20-12fca82f.th", "resnet20", 915),
        pytest.param("resnet56-4bfd9763.th", "resnet56", 926, marks=pytest.mark.slow),
    ],
)
def test_published_weights_load_strictly_and_reach_their_accuracy(
    real_data: Path, file: str, name: str, correct: int
) -> None:
    state = torch.load(real_data / file, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    recipe = recognise(shapes)
    assert recipe is by_name(name)
    network = recipe.build(shapes)
    network.load_state_dict(state, assign=True)

    with np.load(real_data / "cifar10_test1k_lossless.npz") as data:
        pixels = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(data["labels"])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    with torch.inference_mode():
        predicted = network((pixels - mean) / std).argmax(1)
    # One image may tip over between machines: convolutions sum in different orders.
    assert abs(int((predicted == labels).sum()) - correct) <= 1
