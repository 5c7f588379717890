from __future__ import annotations

import pytest
import torch

from prunedeploy.core.errors import UserError
from prunedeploy.models import by_name


def test_image_channels_and_classes_come_from_the_checkpoint(with_weights) -> None:
    recipe = by_name("resnet20")
    shapes = dict(recipe.layout())
    shapes |= {"conv1.weight": (16, 1, 3, 3), "linear.weight": (7, 64), "linear.bias": (7,)}
    assert recipe.input_for(shapes) == (1, 32, 32)
    assert with_weights(recipe, shapes)(torch.rand(2, 1, 32, 32)).shape == (2, 7)


def test_normalisation_buffers_are_applied_inside_the_network(with_weights) -> None:
    recipe = by_name("vgg16_bn_cifar")
    shapes = dict(recipe.layout())
    plain = with_weights(recipe, shapes)
    normalising = recipe.build(shapes | {"normalize.mean": (3,), "normalize.std": (3,)})
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.3])
    state = plain.state_dict() | {"normalize.mean": mean, "normalize.std": std}
    normalising.load_state_dict(state, assign=True)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = plain((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(normalising(pixels), expected)


def test_shapes_that_do_not_fit_together_are_the_users_mistake() -> None:
    recipe = by_name("resnet18")
    shapes = dict(recipe.layout()) | {"layer1.0.conv2.weight": (64, 60, 3, 3)}
    with pytest.raises(UserError, match="do not fit together as resnet18"):
        recipe.build(shapes)


@pytest.mark.parametrize("widths", [(16, 31), (32, 16)])
def test_uneven_option_a_shortcuts_are_refused(widths: tuple[int, int]) -> None:
    before, after = widths
    recipe = by_name("resnet20")
    shapes = {}
    for name, shape in recipe.layout().items():
        width = {16: before, 32: after}
        shapes[name] = (*(width.get(size, size) for size in shape[:2]), *shape[2:])
    with pytest.raises(UserError, match="option-A shortcut cannot take"):
        recipe.build(shapes)


def test_a_flatten_that_is_no_square_map_is_refused() -> None:
    recipe = by_name("vgg11")
    shapes = dict(recipe.layout()) | {"classifier.0.weight": (4096, 25_000)}
    with pytest.raises(UserError, match="not a square map"):
        recipe.build(shapes)


def test_vgg_with_a_one_pixel_head_runs_on_cifar_images(narrowed, with_weights) -> None:
    recipe = by_name("vgg11")
    shapes = narrowed(recipe, 8) | {"classifier.0.weight": (512, 64)}
    assert with_weights(recipe, shapes)(torch.rand(2, 3, 32, 32)).shape == (2, 1000)


def test_densenet_takes_the_names_of_its_published_file(narrowed, with_weights) -> None:
    recipe = by_name("densenet121")
    shapes = narrowed(recipe, 4)
    network = with_weights(recipe, shapes)
    state = network.state_dict()
    old = {}
    for name, value in state.items():
        for part in ("norm1", "conv1", "norm2", "conv2"):
            if "denselayer" in name:
                name = name.replace(part, f"{part[:-1]}.{part[-1]}")
        old[name] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    rebuilt = recipe.build({name: tuple(value.shape) for name, value in old.items()})
    rebuilt.load_state_dict(old, assign=True)
    assert all(torch.equal(rebuilt.state_dict()[name], state[name]) for name in state)


def test_checkpoints_without_batch_counters_load_strictly(with_weights) -> None:
    recipe = by_name("resnet20")
    network = with_weights(recipe, recipe.layout())
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
