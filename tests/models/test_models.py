from __future__ import annotations

import time

import pytest
import torch

from prunedeploy import models
from prunedeploy.core.errors import UserError
from prunedeploy.models import RECIPES, Recipe, by_name, nearest, recognise

# torchvision's documentation for its networks; the CIFAR ones from He et al., table 6, and the
# README of akamaster/pytorch_resnet_cifar10, exact values by hand from the layer widths.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "wide_resnet50_2": 68_883_240,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "densenet121": 7_978_856,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "resnet18_cifar": 11_173_962,
    "vgg16_bn_cifar": 14_728_266,
    "resnet20": 269_722,
    "resnet56": 853_018,
    "wide_resnet28_10": 36_479_194,
}

every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    recipe = by_name(name)
    network = recipe.build(recipe.layout())
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert all(parameter.is_meta for parameter in network.parameters())
    assert not any(buffer.is_meta for buffer in network.buffers())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18", {"conv1.weight": (64, 3, 7, 7), "layer2.0.downsample.1.bias": (128,)}),
        ("resnet50", {"layer1.0.conv3.weight": (256, 64, 1, 1), "fc.weight": (1000, 2048)}),
        ("wide_resnet50_2", {"layer1.0.conv2.weight": (128, 128, 3, 3)}),
        ("resnet18_cifar", {"conv1.weight": (64, 3, 3, 3), "fc.weight": (10, 512)}),
        ("vgg16_bn", {"features.41.running_var": (512,), "classifier.6.weight": (1000, 4096)}),
        ("vgg11", {"features.18.weight": (512, 512, 3, 3), "classifier.0.bias": (4096,)}),
        ("vgg16_bn_cifar", {"features.40.bias": (512,), "classifier.weight": (10, 512)}),
        ("mobilenet_v1", {"model.0.0.weight": (32, 3, 3, 3), "model.13.4.bias": (1024,)}),
        (
            "mobilenet_v2",
            {"features.2.conv.1.0.weight": (96, 1, 3, 3), "features.18.1.bias": (1280,)},
        ),
        (
            "mobilenet_v2",
            {"features.1.conv.1.weight": (16, 32, 1, 1), "classifier.1.bias": (1000,)},
        ),
        ("densenet121", {"features.denseblock4.denselayer16.norm1.weight": (992,)}),
        ("densenet121", {"features.transition3.conv.weight": (512, 1024, 1, 1)}),
        ("squeezenet1_0", {"features.12.expand3x3.weight": (256, 64, 3, 3)}),
        ("squeezenet1_1", {"features.0.weight": (64, 3, 3, 3), "classifier.1.bias": (1000,)}),
        ("resnet110", {"layer3.17.conv2.weight": (64, 64, 3, 3), "linear.bias": (10,)}),
        ("wide_resnet28_10", {"block1.layer.0.convShortcut.weight": (160, 16, 1, 1)}),
        (
            "wide_resnet32_2",
            {"layer2.0.downsample.0.weight": (128 // 2, 32, 1, 1), "bn.bias": (32,)},
        ),
    ],
)
def test_names_are_those_of_the_public_implementations(
    name: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    layout = by_name(name).layout()
    assert {key: layout.get(key) for key in shapes} == shapes


@every_recipe
def test_recognised_from_its_own_shapes(recipe: Recipe) -> None:
    assert recognise(recipe.layout()) is recipe


@every_recipe
def test_recognised_when_shrunk(recipe: Recipe, narrowed) -> None:
    found = recognise(narrowed(recipe, 2))
    assert found is not None
    # At half width the wide ResNet-50 is as near to the plain one, and fits either.
    assert {found.name, recipe.name} in ({recipe.name}, {"resnet50", "wide_resnet50_2"})


def test_recognition_does_not_count_bookkeeping() -> None:
    layout = dict(by_name("resnet18_cifar").layout())
    layout |= {"bn1.num_batches_tracked": (), "normalize.mean": (3,), "normalize.std": (3,)}
    assert recognise(layout) is by_name("resnet18_cifar")


def test_unknown_networks_are_not_recognised() -> None:
    layout = dict(by_name("resnet18").layout())
    assert recognise({}) is None
    assert recognise({"weight": (3, 3)}) is None
    assert recognise(layout | {"extra.weight": (1,)}) is None
    layout.pop("fc.bias")
    assert recognise(layout) is None


def test_nearest_names_what_is_missing_and_unexpected() -> None:
    layout = dict(by_name("densenet121").layout())
    layout["head.bias"] = layout.pop("classifier.bias")
    assert nearest(layout) == (by_name("densenet121"), ("classifier.bias",), ("head.bias",))


def test_names_are_unique_and_mistakes_get_the_nearest() -> None:
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    with pytest.raises(UserError, match="resnet50"):
        by_name("resnet5O")
    with pytest.raises(UserError, match="mobilenet_v2"):
        by_name("something else entirely")


def test_recognition_is_fast() -> None:
    models._recipe._layout.cache_clear()
    start = time.process_time()
    recognise({"unknown": (1,)})
    assert time.process_time() - start < 3  # of the processor's time: 0.3 s


@every_recipe
def test_checkpoints_of_a_quarter_of_the_width_rebuild_and_run(
    recipe: Recipe, narrowed, with_weights
) -> None:
    shapes = narrowed(recipe, 4)
    network = with_weights(recipe, shapes)
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    side = 32 if recipe.input_shape[1] == 32 else 64
    with torch.no_grad():
        logits = network(torch.rand(2, recipe.input_shape[0], side, side))
    assert logits.shape == (2, shapes[[*shapes][-1]][0])
    assert logits.isfinite().all()
