"""Masks beside the weights, under any key and in any container; what is none is let be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import UserError

Masks = dict[str, Tensor]
ARCH = "small_net_of_the_tests:Net"


def apply(net: nn.Module, masks: Masks) -> nn.Module:
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    return net


def layers(masks: Masks) -> dict[str, Any]:
    return {name.removesuffix(".weight"): mask for name, mask in masks.items()}


class Pruner:
    """An object of a class that nobody knows."""

    def __init__(self, masks: Masks) -> None:
        self.masks, self.rate = masks, 0.5


CONTAINERS: dict[str, Callable[[Masks], dict[str, Any]]] = {
    "masks": lambda m: {"masks": m},
    "mask_dict": lambda m: {"mask_dict": m},
    "pruning_mask": lambda m: {"pruning_mask": m},
    "weight_masks": lambda m: {"weight_masks": m},
    "maskDict": lambda m: {"maskDict": m},
    "layers": lambda m: {"masks": layers(m)},
    "nested as NNI does": lambda m: {
        "mask": {name: {"weight": mask, "bias": None} for name, mask in layers(m).items()}
    },
    "under a key": lambda m: {"extra": {"pruning": {"masks": m}}},
    "names of masks alone": lambda m: {"extra": {f"{name}_mask": x for name, x in m.items()}},
    "underscores": lambda m: {"masks": {n.replace(".", "_"): x for n, x in m.items()}},
    "at the top": lambda m: {f"{name}_mask": mask for name, mask in m.items()},
    "parallel": lambda m: {"masks": {f"module.{name}": mask for name, mask in m.items()}},
    "prefixed": lambda m: {"masks": {f"net.{name}": mask for name, mask in m.items()}},
    "bool": lambda m: {"masks": {name: mask.bool() for name, mask in m.items()}},
    "uint8": lambda m: {"masks": {name: mask.byte() for name, mask in m.items()}},
    "float16": lambda m: {"masks": {name: mask.half() for name, mask in m.items()}},
    "numpy": lambda m: {"masks": {name: mask.numpy() for name, mask in m.items()}},
    "sparse": lambda m: {"masks": {name: mask.to_sparse() for name, mask in m.items()}},
    "list": lambda m: {"masks": [*m.values()]},
    "list with gaps": lambda m: {"masks": [None, *m.values(), None]},
    "by number": lambda m: {"masks": dict(enumerate(m.values()))},
    "pairs": lambda m: {"masks": [(name, mask) for name, mask in m.items()]},
    "in an object": lambda m: {"pruner": Pruner(m)},
    "torch.ao.pruning": lambda m: {
        "sparsifier": {"state": {name: {"mask": x} for name, x in m.items()}, "groups": [{"a": 1}]}
    },
    "flat": lambda m: {"masks": {name: mask.flatten() for name, mask in m.items()}},
    "matrices": lambda m: {"masks": {name: mask.flatten(1) for name, mask in m.items()}},
    "the same twice": lambda m: {"masks": m, "best_masks": {k: v.clone() for k, v in m.items()}},
}


@pytest.mark.parametrize("what", CONTAINERS)
@pytest.mark.parametrize("form", ["zip", "pickle", "trusted"])
def test_masks_in_the_same_file(net, masks, same, what: str, form: str, tmp_path: Path) -> None:
    value = {"state_dict": net.state_dict(), "epoch": 3, **CONTAINERS[what](masks)}
    if form == "pickle":
        (tmp_path / "net").write_bytes(pickle.dumps(value))
    else:
        torch.save(value, tmp_path / "net")
    found = same(tmp_path / "net", apply(net, masks), trust=form == "trusted").found
    assert any("masks in the same file" in line for line in found)
    tensors, lines = weights(tmp_path / "net", trust=form == "trusted")
    assert torch.equal(tensors["conv2.weight"], net.conv2.weight)
    assert any("masks in the same file" in line for line in lines)


def test_masks_beside_another_set_are_that_sets(net, masks, same, tmp_path: Path) -> None:
    ema = copy.deepcopy(net)
    with torch.no_grad():
        ema.fc.weight.add_(1)
    value = {"model": net.state_dict(), "ema": {"module": ema.state_dict(), "masks": masks}}
    torch.save(value, tmp_path / "net")
    same(tmp_path / "net", net)
    same(tmp_path / "net", apply(ema, masks), weights="ema")


def test_masks_beside_an_unwrapped_state_dict(net, masks, same, tmp_path: Path) -> None:
    torch.save({**net.state_dict(), "masks": masks}, tmp_path / "net")
    same(tmp_path / "net", apply(net, masks))


@pytest.mark.parametrize("key", ["conv1.weight", "conv1"])
@pytest.mark.parametrize(
    "shape", [lambda m: m, lambda m: m[:, None, None, None], lambda m: m[:, None]]
)
def test_one_value_a_filter(net, same, key: str, shape, tmp_path: Path) -> None:
    """Whether a bias is masked, too, only its own mask says."""
    gone = torch.tensor([1.0, 0, 1, 1, 0, 1])
    mask = shape(gone)
    if mask.dim() == 2:
        mask = mask.expand(6, 3)  # one a kernel
    torch.save({"state_dict": net.state_dict(), "masks": {key: mask}}, tmp_path / "net")
    with torch.no_grad():
        net.conv1.weight.mul_(gone[:, None, None, None])
    if key == "conv1" and mask.dim() == 1:
        with pytest.raises(UserError, match="'conv1' masks whole channels, whose bias is not zero"):
            load(tmp_path / "net", arch=ARCH)
        with torch.no_grad():
            net.conv1.bias.mul_(gone)
        torch.save({"state_dict": net.state_dict(), "masks": {key: mask}}, tmp_path / "net")
    same(tmp_path / "net", net)


def test_one_value_an_input(net, same, tmp_path: Path) -> None:
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 0])
    torch.save({"state_dict": net.state_dict(), "masks": {"fc.weight": mask}}, tmp_path / "net")
    with torch.no_grad():
        net.fc.weight.mul_(mask)
    same(tmp_path / "net", net)


def test_masks_of_biases(net, same, tmp_path: Path) -> None:
    mask = torch.tensor([1, 0, 1, 0, 1])
    value = {"state_dict": net.state_dict(), "masks": {"fc": {"weight": None, "bias": mask}}}
    torch.save(value, tmp_path / "net")
    with torch.no_grad():
        net.fc.bias.mul_(mask)
    same(tmp_path / "net", net)


# -- refused ---------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Masks], dict[str, Any]], str]] = {
    "soft": (
        lambda m: {"masks": {name: mask * 0.9 + 0.05 for name, mask in m.items()}},
        r"'masks'\.'conv1\.weight' is no mask of conv1\.weight: it holds 0\.05",
    ),
    "scores": (
        lambda m: {"masks": {name: torch.linspace(-1, 1, 162).view(6, 3, 3, 3) for name in m}},
        "not only 0 and 1",
    ),
    "another shape": (lambda m: {"masks": {"fc.weight": m["conv2.weight"]}}, "shapes"),
    "two that differ": (
        lambda m: {"masks": m, "old_masks": {n: x.flip(0) for n, x in m.items()}},
        r"different masks of conv1\.weight",
    ),
    "of every step": (
        lambda m: {"mask_list": [m, {n: x.flip(0) for n, x in m.items()}]},
        r"different masks of conv1\.weight",
    ),
    "what is taken away": (
        lambda m: {"pruned_mask": {n: 1 - x for n, x in m.items()}},
        "ones of a mask are to mark what stays",
    ),
    "under no name of a mask": (
        lambda m: {"kept": m},
        r"'kept'\.'conv1\.weight' holds zeros and ones that go with conv1\.weight",
    ),
    "under no name of a weight": (
        lambda m: {"masks": {f"layer {at}": x for at, x in enumerate(m.values())}},
        "'masks'.'layer 0' looks like a mask of a weight, and its name does not say of which",
    ),
    "of a whole layer under no name of a weight": (
        lambda m: {"masks": {"x": torch.zeros(5, 8)}},
        "looks like a mask of a weight",
    ),
    "under no name at all": (
        lambda m: {"x": {"y": m["conv2.weight"]}},
        "'x'.'y' looks like a mask of a weight",
    ),
    "filters under no name of a weight": (
        lambda m: {"filter_masks": {"first": torch.tensor([1.0, 0, 1, 1, 0, 1])}},
        "looks like a mask of a weight",
    ),
    "a list in another order": (lambda m: {"masks": [*m.values()][::-1]}, "exactly one way"),
    "names with two prefixes": (
        lambda m: {"masks": {f"{name[:3]}.{name}": mask for name, mask in m.items()}},
        "do not go with those of the weights in one way",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("trust", [False, True])
def test_what_is_not_certain_is_refused(net, masks, what, trust: bool, tmp_path: Path) -> None:
    make, says = REFUSED[what]
    torch.save({"state_dict": net.state_dict(), **make(masks)}, tmp_path / "net.pt")
    for call in (
        lambda: load(tmp_path / "net.pt", arch=ARCH, trust=trust),
        lambda: weights(tmp_path / "net.pt", trust),
    ):
        with pytest.raises(UserError, match=says) as caught:
            call()
        assert "net.pt" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_masks_that_take_all_away_are_the_wrong_way_round(net, masks, tmp_path: Path) -> None:
    inverted = {name: 1 - mask for name, mask in masks.items()}
    torch.save({"state_dict": apply(net, masks).state_dict(), "masks": inverted}, tmp_path / "net")
    with pytest.raises(UserError, match="ones of a mask are to mark what stays"):
        load(tmp_path / "net", arch=ARCH)


@pytest.mark.parametrize("key", ["kept", "pruned_mask", "anything"])
def test_what_changes_nothing_is_no_matter(net, masks, same, key: str, tmp_path: Path) -> None:
    """Applied already: whatever the key means, the network is the same."""
    masked = apply(net, masks)
    torch.save({"state_dict": masked.state_dict(), key: masks}, tmp_path / "net")
    same(tmp_path / "net", masked)


def test_a_square_layer_and_one_value_a_row_or_column(tmp_path: Path) -> None:
    state = {"fc.weight": torch.rand(4, 4), "fc.bias": torch.rand(4)}
    torch.save(
        {"state_dict": state, "masks": {"fc.weight": torch.tensor([1, 0, 1, 1])}}, tmp_path / "n"
    )
    with pytest.raises(UserError, match=r"one value a row or a column of fc\.weight"):
        weights(tmp_path / "n")


# -- what is none ----------------------------------------------------------------------------------


def gpt2() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As transformers writes it: a triangle as a buffer of every attention."""
    triangle = torch.ones(16, 16, dtype=torch.uint8).tril().view(1, 1, 16, 16)
    state = {"wte.weight": torch.rand(40, 16), "wpe.weight": torch.rand(16, 16)}
    state |= {"attn.weight": torch.rand(16, 16), "attn.mask": triangle[0, 0]}
    for at in range(2):
        state |= {
            f"h.{at}.attn.bias": triangle,
            f"h.{at}.attn.masked_bias": torch.tensor(-1e4),
            f"h.{at}.attn.c_attn.weight": torch.rand(16, 48),
            f"h.{at}.attn.c_proj.weight": torch.rand(16, 16),
            f"h.{at}.attn.c_proj.bias": torch.rand(16),
        }
    return state, {"causal_mask": triangle[0, 0], "attn_mask": triangle[0, 0].bool()}


def bert() -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = {
        "embeddings.position_ids": torch.arange(2).expand(1, -1),
        "embeddings.token_type_ids": torch.zeros(1, 8, dtype=torch.int64),
        "embeddings.word_embeddings.weight": torch.rand(30, 8),
        "embeddings.token_type_embeddings.weight": torch.rand(2, 8),
        "encoder.layer.0.attention.self.query.weight": torch.rand(8, 8),
        "encoder.layer.0.attention.self.query.bias": torch.rand(8),
    }
    batch = {"attention_mask": torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0]] * 8)}
    return state, {"last_batch": batch, "key_padding_mask": torch.eye(8).bool()}


def swin() -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = {
        "layers.0.blocks.1.attn_mask": torch.arange(64).view(4, 4, 4) % 2 * -100.0,
        "layers.0.blocks.1.attn.relative_position_index": torch.arange(16).view(4, 4) % 2,
        "layers.0.blocks.1.attn.relative_position_bias_table": torch.rand(9, 2),
        "layers.0.blocks.1.attn.qkv.weight": torch.rand(12, 4),
        "layers.0.blocks.1.attn.proj.weight": torch.rand(4, 4),
        "layers.0.blocks.1.norm1.weight": torch.rand(4),
    }
    return state, {"window_mask": torch.ones(4, 4).triu().bool()}


def segmentation() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Mask R-CNN, SAM, MAE: parts of networks that are called masks."""
    state = {
        "roi_heads.mask_head.mask_fcn1.weight": torch.rand(4, 4, 3, 3),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": torch.zeros(2, 4, 1, 1),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.zeros(2),
        "decoder.mask_token": torch.zeros(1, 1, 4),
        "decoder.mask_embed.weight": torch.zeros(4, 4),
        "decoder.embed.weight": torch.rand(4, 4),
        "prompt.mask_downscaling.0.weight": torch.ones(4, 1, 2, 2),
        "prompt.no_mask_embed.weight": torch.ones(1, 4),
    }
    return state, {"class_of": torch.eye(4), "one_hot": torch.eye(4)[[1, 1, 0, 2]]}


def graph() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A graph network, saved with its data."""
    state = {"conv1.weight": torch.rand(8, 6), "conv2.weight": torch.rand(6, 3)}
    masks = {f"{part}_mask": torch.rand(8) > 0.5 for part in ("train", "val", "test")}
    return state, {"data": {"x": torch.rand(8, 6), "y": torch.arange(8) % 3, **masks}, **masks}


def training() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer whose averages are zeros and ones, states of random generators, labels."""
    state = {"fc.weight": torch.rand(6, 4), "fc.bias": torch.rand(6), "fc.steps": torch.ones(6)}
    sparse = (torch.rand(6, 4) > 0.5).float()
    return state, {
        "optimizer": {"state": {0: {"exp_avg": sparse, "step": torch.ones(1)}}},
        "optim": {"fc.weight": sparse},
        "rng_state": torch.get_rng_state(),
        "labels": torch.arange(24).view(6, 4) % 2,
        "targets": {"fc.bias": torch.zeros(6)},
        "history": [torch.zeros(3), torch.ones(3)],
    }


@pytest.mark.parametrize("layout", [gpt2, bert, swin, segmentation, graph, training])
@pytest.mark.parametrize("trust", [False, True])
def test_zeros_and_ones_that_are_no_masks(layout, trust: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state, more = layout()
    torch.save({"model": state, **more}, tmp_path / "net")
    found, lines = weights(tmp_path / "net", trust)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name].double(), tensor.double()), name
    assert not any("masks" in line for line in lines)


def test_hidden_buffers_of_a_whole_module(net: nn.Module, tmp_path: Path) -> None:
    """Newer transformers hide the triangle from the state_dict; a pickled module has it still."""
    net.fc.register_buffer("causal_mask", torch.ones(8, 8).tril(), persistent=False)
    net.register_buffer("bias", torch.ones(1, 1, 8, 8).tril(), persistent=False)
    torch.save(net, tmp_path / "net")
    found, lines = weights(tmp_path / "net")
    assert torch.equal(found["fc.weight"], net.fc.weight)
    assert not any("masks" in line for line in lines)


# -- a file of masks -------------------------------------------------------------------------------

FILES: dict[str, Callable[[Masks], Any]] = {
    "nested as NNI does": lambda m: {k: {"weight": v} for k, v in layers(m).items()},
    "and with bias": lambda m: {k: {"weight": v, "bias": None} for k, v in layers(m).items()},
    "NNI's settings": lambda m: {k: {"weight": v, "sparsity": 0.5} for k, v in layers(m).items()},
    "deeper": lambda m: {"epoch": 3, "extra": {"masks": layers(m)}},
    "a list of pairs": lambda m: [(name, mask) for name, mask in m.items()],
    "the state of torch.ao's sparsifier": lambda m: {k: {"mask": v} for k, v in m.items()},
    "with an optimizer": lambda m: {**m, "optimizer": {"state": {0: {"a": torch.rand(3)}}}},
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("trust", [False, True])
def test_mask_files(net, masks, same, what: str, trust: bool, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    torch.save(FILES[what](masks), tmp_path / "mask.pth")
    found = same(tmp_path / "net", apply(net, masks), mask=tmp_path / "mask.pth", trust=trust).found
    assert "3 masks in mask.pth" in found


def test_a_mask_file_without_masks(net, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    torch.save({"epoch": 3, "rate": np.float64(0.5)}, tmp_path / "mask.pth")
    with pytest.raises(UserError, match=r"no mask in mask\.pth"):
        load(tmp_path / "net", arch=ARCH, mask=tmp_path / "mask.pth")
