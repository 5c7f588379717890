"""compressed-tensors' files: the weights that were compressed, or a refusal that names one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import weights
from prunedeploy.core.errors import UserError

save_file = pytest.importorskip("safetensors.torch").save_file


def bits(mask: Tensor) -> Tensor:
    """``pack_bitmasks`` of compressed_tensors.utils."""
    return torch.from_numpy(np.packbits(mask.numpy(), axis=-1, bitorder="little"))


def bitmask(name: str, weight: Tensor) -> dict[str, Tensor]:
    """``BitmaskCompressor.compress_weight`` of version 0.10."""
    mask = weight != 0
    counts = mask.sum(dim=-1)
    return {
        f"{name}.shape": torch.tensor(weight.shape),
        f"{name}.compressed": weight[mask],
        f"{name}.bitmask": bits(mask),
        f"{name}.row_offsets": torch.cumsum(counts, 0) - counts,
    }


def two_four(name: str, weight: Tensor) -> dict[str, Tensor]:
    """``Sparse24BitMaskCompressor.compress_weight``: two places of every four, zero or not."""
    kept = weight.view(-1, 4).abs().topk(2, dim=1).indices
    mask = torch.zeros(weight.numel() // 4, 4, dtype=torch.bool).scatter_(1, kept, True)
    mask = mask.view(weight.shape)
    return {
        f"{name}.shape": torch.tensor(weight.shape).reshape(-1, 1),
        f"{name}.compressed": weight[mask].reshape(len(weight), -1),
        f"{name}.bitmask": bits(mask),
    }


def test_weights_of_both_formats(net: nn.Module, same, tmp_path: Path) -> None:
    """Of a convolution, [out, in, height, width], too; what is dense stays."""
    state = {name: x for name, x in net.state_dict().items() if not name.startswith("conv1.w")}
    with torch.no_grad():
        net.conv1.weight[torch.rand(net.conv1.weight.shape) < 0.5] = 0
        net.fc.weight.view(-1, 4)[:, :2] = 0
    del state["fc.weight"]
    state |= bitmask("conv1", net.conv1.weight.detach()) | two_four("fc", net.fc.weight.detach())
    save_file(state, tmp_path / "model.safetensors")
    loaded = same(tmp_path / "model.safetensors", net)
    assert "2 weights of bitmasks (compressed-tensors)" in loaded.found


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_any_length(tmp_path: Path, columns: int, dtype: torch.dtype) -> None:
    weight = (torch.randn(5, columns) * (torch.rand(5, columns) < 0.4)).to(dtype)
    weight[0, 0] = 1
    save_file(bitmask("layers.0.fc", weight), tmp_path / "net")
    found, _ = weights(tmp_path / "net")
    assert found.keys() == {"layers.0.fc.weight"}
    assert torch.equal(found["layers.0.fc.weight"], weight.float())


def test_damage_is_named(tmp_path: Path) -> None:
    whole = bitmask("fc", torch.ones(4, 8))
    for change, says in (
        ({"fc.compressed": torch.ones(31)}, "31 values for 32 bits"),
        ({"fc.shape": torch.tensor([4, 9])}, "does not have the bits"),
        ({"fc.shape": torch.tensor([4, 0])}, "does not have the bits"),
        ({"fc.shape": torch.tensor([1 << 40, 8])}, "does not have the bits"),
        ({"fc.bitmask": torch.ones(4, 1)}, "incomplete"),
    ):
        save_file(whole | change, tmp_path / "net")
        with pytest.raises(UserError, match=says):
            weights(tmp_path / "net")
    save_file({k: x for k, x in whole.items() if k != "fc.shape"}, tmp_path / "net")
    with pytest.raises(UserError, match="incomplete"):
        weights(tmp_path / "net")


@pytest.mark.parametrize(
    "parts",
    [
        {"weight_packed": torch.ones(4, 2, dtype=torch.int32), "weight_scale": torch.ones(4, 1)},
        {"weight": torch.ones(4, 8, dtype=torch.int8), "weight_scale": torch.ones(4, 1)},
        {"weight": torch.ones(4, 8).to(torch.float8_e4m3fn), "weight_scale": torch.ones(1)},
        {"weight": torch.ones(4, 8).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
    ],
)
def test_quantised_weights_are_refused(tmp_path: Path, parts: dict[str, Tensor]) -> None:
    save_file({f"fc.{name}": x for name, x in parts.items()}, tmp_path / "net")
    with pytest.raises(UserError, match=r"fc\.weight_\w+ belongs to .*run_compressed=False"):
        weights(tmp_path / "net")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("layer", ["fc.", ""])
def test_quantised_weights_of_bitmasks_are_refused(
    tmp_path: Path, dtype: torch.dtype, layer: str
) -> None:
    """``sparse-24-bitmask`` over a quantised layer: the values have a scale, no weight is there."""
    parts = two_four("fc", torch.randn(4, 8))
    parts |= {"fc.compressed": parts["fc.compressed"].to(dtype), "fc.weight_scale": torch.ones(4)}
    state = {f"{layer}{name.removeprefix('fc.')}": x for name, x in parts.items()}
    save_file(state, tmp_path / "net")
    with pytest.raises(UserError, match=r"weight_scale belongs to .*run_compressed=False"):
        weights(tmp_path / "net")


def test_a_scale_beside_a_plain_weight_is_a_parameter(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.ones(4, 8), "fc.weight_scale": torch.ones(4)}, tmp_path / "net")
    assert weights(tmp_path / "net")[0].keys() == {"fc.weight", "fc.weight_scale"}
