"""Names of masks, as tools write them, and the weights that they lead to."""

from __future__ import annotations

import pytest
import torch

from prunedeploy.checkpoint.naming import Index, Target, is_mask_key, words

NAMES = (
    *("conv1.weight", "conv1.bias", "layer1.0.conv1.weight", "layer1.0.conv1.bias"),
    *("encoder.layers.0.fc.weight", "head.mask_fcn1.weight", "bn.weight", "bn.running_mean"),
    *("a.module.weight", "in_proj_weight", "attn.c_proj.weight", "x_y.weight", "x.y.weight"),
)


@pytest.fixture(scope="module")
def index() -> Index:
    return Index({name: torch.ones(2) for name in NAMES} | {"ids.weight": torch.arange(2)})


@pytest.mark.parametrize(
    ("mask", "weight", "explicit"),
    [
        ("conv1.weight_mask", "conv1.weight", True),
        ("conv1.bias_mask", "conv1.bias", True),
        ("conv1.mask", "conv1.weight", False),
        ("conv1", "conv1.weight", False),
        ("conv1.__weight_mma_mask", "conv1.weight", True),
        ("conv1.pre_ops.0.op._binary_mask", "conv1.weight", False),
        ("conv1.pre_ops.0.op.weight_ctx._binary_mask", "conv1.weight", True),
        ("conv1.pre_ops.0.op._binary_filter_pruning_mask", "conv1.weight", False),
        ("masks.conv1.weight", "conv1.weight", True),
        ("mask_conv1_weight", "conv1.weight", True),
        ("conv1_weight_mask", "conv1.weight", True),
        ("conv1.mask_weight", "conv1.weight", True),
        ("conv1.weightMask", "conv1.weight", True),
        ("conv1.weight_element_mask", "conv1.weight", True),
        ("module.conv1.weight_mask", "conv1.weight", True),
        ("layer1.0.conv1.mask", "layer1.0.conv1.weight", False),
        ("encoder.layers.0.fc.__weight_mma_mask", "encoder.layers.0.fc.weight", True),
        ("head.mask_fcn1.weight_mask", "head.mask_fcn1.weight", True),
        ("a.weight_mask", "a.module.weight", True),
        ("in_proj_weight_mask", "in_proj_weight", True),
        ("mask_dict.conv1", "conv1.weight", False),
    ],
)
def test_masks_of_weights(index: Index, mask: str, weight: str, explicit: bool) -> None:
    assert index.find(mask) == Target(weight, explicit)


@pytest.mark.parametrize(
    "mask",
    [
        *("attn.mask", "attn_mask", "mask", "mask_token", "causal_mask", "bn.running_mean_mask"),
        *("nothing.weight_mask", "ids.weight_mask", "x_y.weight_mask", ""),
    ],
)
def test_masks_of_nothing_that_is_certain(index: Index, mask: str) -> None:
    """Two weights of one name, up to dots and underscores, are told by neither."""
    assert index.find(mask) is None


def test_prefixes(index: Index) -> None:
    assert index.find("net.conv1.weight_mask") is None
    found = index.find("net.layer1.0.conv1.weight_mask", prefixes=True)
    assert found == Target("layer1.0.conv1.weight", True, ("net",))
    assert index.find("fc.mask", prefixes=True) == Target(
        "encoder.layers.0.fc.weight", False, ("encoder", "layers", "0")
    )
    assert index.find("net.conv1.mask", prefixes=True) == Target("conv1.weight", False, ("net",))
    two = Index({"a.fc.weight": torch.ones(2), "b.fc.weight": torch.ones(2)})
    assert two.find("fc.weight_mask", prefixes=True) is None


def test_an_entry_is_not_its_own_mask(index: Index) -> None:
    assert index.find("conv1.weight") == Target("conv1.weight", True)
    assert index.find("conv1.weight", among=True) is None


@pytest.mark.parametrize(
    ("key", "is_one"),
    [
        *((key, True) for key in ("mask", "masks", "mask_dict", "masks_dict", "pruning_mask")),
        *((key, True) for key in ("weight_masks", "maskDict", "mask_list", "c1.weight_mask")),
        *((key, True) for key in ("fc.mask_weight", "masks_by_name", "state_mask", "mask_scores")),
        *((key, False) for key in ("mask_head", "mask_token", "mask_rcnn", "masked_bias", "model")),
        *((key, False) for key in ("mask_fcn1.weight", "unmask", "weights", "", "state_dict")),
    ],
)
def test_keys_that_say_that_masks_are_under_them(key: str, is_one: bool) -> None:
    assert is_mask_key(key) == is_one


def test_words() -> None:
    assert words("layer1.0.convBlock_2.module.weight") == (
        "layer1",
        "0",
        "conv",
        "block",
        "2",
        "weight",
    )
    assert words("..__") == ()


def test_weights_without_a_name_are_nobodys() -> None:
    index = Index({"": torch.ones(2), "..": torch.ones(2), "a.weight": torch.ones(2)})
    assert list(index.mentioned("a.mask")) == ["a.weight"]
