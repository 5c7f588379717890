from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prunedeploy.core.errors import UserError
from prunedeploy.models.mobilenet_v1 import MobileNetV1, from_npz


def test_folded_weights_load_with_their_zeros(real_data: Path) -> None:
    path = real_data / "mobilenet_v1_imagenet_s90.npz"
    network = from_npz(path)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    pointwise = network.model[6][3]
    with np.load(path) as arrays:
        np.testing.assert_array_equal(
            pointwise.weight[:, :, 0, 0].numpy(force=True), arrays["contraction_1x1_5"]
        )
        np.testing.assert_array_equal(
            pointwise.bias.numpy(force=True), arrays["contraction_1x1_5_bias"]
        )
        np.testing.assert_array_equal(
            network.fc.weight.numpy(force=True), arrays["final_dense_kernel"]
        )
    assert 0.88 < (pointwise.weight == 0).float().mean() < 0.92
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    np.savez(path, initial_conv=np.zeros((32, 3, 3, 3), np.float32))
    with pytest.raises(UserError, match="lacks depthwise_nxn_0"):
        from_npz(path)


def test_folded_network_computes_what_the_unfolded_one_does() -> None:
    torch.manual_seed(0)
    plain, folded = MobileNetV1().eval(), MobileNetV1(folded=True).eval()
    state = plain.state_dict()
    for norm in (layer for layer in plain.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.normal_(norm.running_mean, std=0.1)
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            prefix, index = name.rsplit(".", 1)
            conv = f"{prefix}.{int(index) - 1}"
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            target = folded.get_submodule(conv)
            with torch.no_grad():
                target.weight.copy_(state[f"{conv}.weight"] * scale.view(-1, 1, 1, 1))
                target.bias.copy_(layer.bias - layer.running_mean * scale)
    folded.fc.load_state_dict(plain.fc.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), plain(image), rtol=1e-4, atol=1e-5)
