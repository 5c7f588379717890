"""Budgets: far above what networks take, and in proportion to what a file has."""

from __future__ import annotations

import pytest

from prunedeploy.core.budget import MIB, Budget, OverBudgetError


def test_what_networks_take_is_allowed() -> None:
    masks = Budget(2 * MIB)  # ResNet-50 with 1 % of its weights and float32 masks, compressed
    assert masks.unpacked > 2 * 102_000_000
    causal = Budget(0)  # a mask of 4096 tokens from nothing
    assert causal.constants > 4096**2
    assert causal.values(4096) > 2 * 4096**2  # scores and their softmax
    upscaled = Budget(200 * MIB)  # 512x512 pixels of 128 channels from a latent image
    assert upscaled.values(4 * 64 * 64) > 4 * 512 * 512 * 128
    assert Budget(0).steps(60, 1) > 2000 * 60  # 2000 words, a node a step
    assert Budget(100 * MIB).opcodes > 5_000_000


def test_the_message_says_what_and_how_much() -> None:
    Budget(8).check("it", 7, 7)
    with pytest.raises(OverBudgetError, match="it would take 8 bytes, more than the 7 that a file"):
        Budget(8).check("it", 8, 7, "bytes")
