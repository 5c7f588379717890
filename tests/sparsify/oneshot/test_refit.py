"""The refit against plain least squares in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prunedeploy.sparsify.oneshot import refit as refitting
from prunedeploy.sparsify.oneshot.calibrate import calibrate
from prunedeploy.sparsify.oneshot.refit import refit, refit_rows


def plain(dense: torch.Tensor, mask: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Row by row, numpy's least squares on the windows themselves."""
    result = torch.zeros_like(dense)
    for row, kept in enumerate(mask):
        wanted = (x @ dense[row]).numpy()
        found, *_ = np.linalg.lstsq(x[:, kept].numpy(), wanted, rcond=None)
        result[row, kept] = torch.from_numpy(found)
    return result


@pytest.mark.parametrize("direct", [1024, 0])
def test_rows_as_plain_least_squares(direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refitting, "DIRECT", direct)  # 0: by conjugate gradients
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(20, 20, generator=generator, dtype=torch.float64)  # correlated
    dense = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 20, generator=generator) < 0.4
    mask[0], mask[1] = True, False
    fitted = refit_rows(dense, mask, x.T @ x / 300)
    torch.testing.assert_close(fitted, plain(dense, mask, x), rtol=1e-6, atol=1e-7)
    assert bool((fitted[0] == dense[0]).all())
    assert not fitted[1].any()


def test_a_layer_with_a_bias_keeps_the_mean_of_its_outputs() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 3).requires_grad_(False)
    x = torch.randn(500, 8) + 2
    before = layer(x)
    mask = torch.rand(3, 8) < 0.5
    errors = refit(layer, {"weight": mask}, calibrate(layer, [x]))
    after = layer(x)
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=1e-4, atol=1e-4)
    assert not layer.weight[~mask].any()
    error = ((after - before) ** 2).sum() / ((before - before.mean(0)) ** 2).sum()
    assert errors["weight"] == pytest.approx(float(error), rel=1e-2)


def test_what_keeps_all_stays_bit_for_bit() -> None:
    layer = nn.Conv2d(4, 4, 3, groups=2).requires_grad_(False)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    moments = calibrate(layer, [torch.randn(4, 4, 6, 6)])
    errors = refit(layer, {"weight": torch.ones(4, 2, 3, 3, dtype=torch.bool)}, moments)
    assert errors == {"weight": 0.0}
    assert bool((layer.weight == weight).all())
    assert bool((layer.bias == bias).all())
