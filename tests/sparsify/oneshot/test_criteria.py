"""Scores of single weights, against formulas on small matrices."""

from __future__ import annotations

import pytest
import torch

from prunedeploy.sparsify.oneshot import criteria
from prunedeploy.sparsify.oneshot.calibrate import Moments
from prunedeploy.sparsify.oneshot.criteria import CRITERIA, obs, wanda
from prunedeploy.sparsify.oneshot.options import METHODS
from prunedeploy.sparsify.oneshot.refit import layer_error, refit_rows


def moments(columns: int, seed: int = 0) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, columns, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return Moments((x.T @ x / 200)[None], x.mean(0)[None], 200)


def test_names() -> None:
    assert tuple(CRITERIA) == METHODS


def test_wanda_is_what_the_output_loses() -> None:
    dense, found = torch.randn(1, 3, 5, dtype=torch.float64), moments(5)
    scores = wanda(dense, found)
    change = torch.zeros_like(dense)
    change[0, 1, 2] = dense[0, 1, 2]
    assert float(scores[0, 1, 2]) == pytest.approx(layer_error(change, dense, found.gram))


def test_obs_is_what_the_output_loses_after_a_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "DIRECT", 0)  # one round: each weight on its own
    dense, found = torch.randn(1, 3, 5, dtype=torch.float64), moments(5)
    scores = obs(dense, found)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2] = False
    fitted = refit_rows(dense[0], mask, found.gram[0])[None]
    error = layer_error(fitted - dense, dense, found.gram)
    assert float(scores[0, 1, 2]) == pytest.approx(error, rel=1e-2)


def test_rounds_leave_less_error_than_one_look() -> None:
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(1, 16, 30, generator=generator, dtype=torch.float64)
    found = moments(30)

    def error(scores: torch.Tensor, share: float) -> float:
        mask = criteria.best_of(scores[0], round(share * 480))
        fitted = refit_rows(dense[0], mask, found.gram[0])[None]
        return layer_error(fitted - dense, dense, found.gram)

    for share in (0.4, 0.2, 0.1):
        by_rounds = error(obs(dense, found), share)
        assert by_rounds < error(wanda(dense, found), share)
        assert by_rounds < error(dense.abs(), share)


def test_a_diagonal_alone_gives_wanda() -> None:
    dense, whole = torch.randn(1, 3, 5, dtype=torch.float64), moments(5)
    diagonal = Moments(whole.energy, whole.mean, 200)
    torch.testing.assert_close(obs(dense, diagonal), wanda(dense, diagonal))
