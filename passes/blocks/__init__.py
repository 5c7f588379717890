"""Blocks in sparse weight matrices: those that regrouping left, and those that can be made."""

from __future__ import annotations

from prunedeploy.passes.blocks.blocks import Block
from prunedeploy.passes.blocks.find import Regrouped, Rule, regroup
from prunedeploy.passes.blocks.recover import recover
from prunedeploy.passes.blocks.remainder import Price, lossless

__all__ = ["Block", "Price", "Regrouped", "Rule", "lossless", "recover", "regroup"]
