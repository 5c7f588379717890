"""Blocks in sparse weight matrices: those that regrouping left, and those that can be made."""

from __future__ import annotations

from prunedeploy.passes.regroup.blocks import Block
from prunedeploy.passes.regroup.find import Regrouped, Rule, regroup
from prunedeploy.passes.regroup.recover import recover
from prunedeploy.passes.regroup.remainder import Price, lossless

__all__ = ["Block", "Price", "Regrouped", "Rule", "lossless", "recover", "regroup"]
