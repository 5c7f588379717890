"""Weights that torch and torchao keep packed: read exactly, or refused by the name of the class."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass
from torch.sparse.semi_structured import (
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)

from prunedeploy.checkpoint import weights
from prunedeploy.core.errors import UserError

BOTH = pytest.mark.parametrize("zip_format", [True, False])


def two_four(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Random weights, the two largest of every four kept."""
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    groups = values.view(rows, -1, 4)
    kept = groups.float().abs().topk(2, -1).indices
    mask = torch.zeros(groups.shape, dtype=torch.bool).scatter_(2, kept, True)
    return (groups * mask).view(rows, columns)


def cutlass(weight: Tensor, transposed: bool = False) -> Tensor:
    packed, meta = sparse_semi_structured_from_dense_cutlass(
        weight.t().contiguous() if transposed else weight
    )
    first, second = ((None, None), (packed, meta))[:: 1 if transposed else -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SparseSemiStructuredTensorCUTLASS(
            weight.shape, first[0], first[1], second[0], second[1], None
        )


@pytest.fixture
def torchao(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The class of torchao 0.18 as far as a pickle shows it: its name and attributes."""
    module = types.ModuleType("torchao.sparsity.blocksparse")

    class BlockSparseTensor(Tensor):
        @staticmethod
        def __new__(cls, shape: torch.Size, blocksize: int, bsr: Tensor) -> BlockSparseTensor:
            self = Tensor._make_wrapper_subclass(cls, shape, dtype=bsr.dtype)
            self.blocksize, self.bsr_values = blocksize, bsr.values()
            self.bsr_crow_indices, self.bsr_col_indices = bsr.crow_indices(), bsr.col_indices()
            return self

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.detach.default:
                return args[0]
            raise NotImplementedError(func)

    BlockSparseTensor.__module__ = module.__name__
    BlockSparseTensor.__qualname__ = "BlockSparseTensor"
    module.BlockSparseTensor = BlockSparseTensor
    for name in ("torchao", "torchao.sparsity", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    return module


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_two_four(tmp_path: Path, dtype: torch.dtype, transposed: bool, zip_format: bool) -> None:
    weight = two_four(128, 64, dtype).t() if transposed else two_four(64, 128, dtype)
    state = {"fc.weight": cutlass(weight, transposed), "fc.bias": torch.zeros(64)}
    torch.save(state, tmp_path / "net", _use_new_zipfile_serialization=zip_format)
    found, _ = weights(tmp_path / "net")
    assert torch.equal(found["fc.weight"], weight.float())


@BOTH
def test_blocks(tmp_path: Path, torchao: types.ModuleType, zip_format: bool) -> None:
    blocks = (torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    weight = torch.randn(64, 128) * torch.kron(blocks, torch.ones(16, 16))
    packed = torchao.BlockSparseTensor(weight.shape, 16, weight.to_sparse_bsr(16))
    state = {"fc.weight": nn.Parameter(packed, requires_grad=False), "fc.bias": torch.zeros(64)}
    torch.save(state, tmp_path / "net", _use_new_zipfile_serialization=zip_format)
    found, _ = weights(tmp_path / "net")
    assert torch.equal(found["fc.weight"], weight)


def test_what_only_its_class_can_read_is_named(tmp_path: Path) -> None:
    """cuSPARSELt's layout is the library's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = SparseSemiStructuredTensorCUSPARSELT(
            torch.Size([64, 128]), torch.ones(64 * 72), None, None, None, None
        )
    torch.save({"fc.weight": packed, "fc.bias": torch.zeros(64)}, tmp_path / "net")
    with pytest.raises(UserError, match=r"fc\.weight is a SparseSemiStructuredTensorCUSPARSELT"):
        weights(tmp_path / "net")


def test_parts_that_do_not_fit_are_damage(tmp_path: Path, torchao: types.ModuleType) -> None:
    weight = torch.ones(32, 32)
    packed = torchao.BlockSparseTensor(weight.shape, 16, weight.to_sparse_bsr(16))
    packed.bsr_col_indices[0] = 7
    torch.save({"fc.weight": packed}, tmp_path / "net")
    with pytest.raises(UserError, match="damaged or incomplete"):
        weights(tmp_path / "net")
