"""Files that hold the network's program beside its weights: TorchScript and torch.export.

TorchScript is run by an interpreter of its own that has no Python in it, but it can write files
(``torch.save``, ``torch.from_file``), already while it is loaded: such programs are refused.
``torch.export.load`` evaluates expressions of the file with sympy, which calls ``eval``, falls
back to unrestricted pickle, and compiles Python from names in the file. So it is only called on
trusted files; the weights are read without it (``read.py``).
"""

from __future__ import annotations

import ast
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from prunedeploy.checkpoint.read import readable
from prunedeploy.errors import UserError

# Names that touch anything but numbers: files, other processes, classes written in C++.
FORBIDDEN = frozenset(
    [
        "save",
        "from_file",
        "load",
        "load_tensor",
        "classes",
        "distributed",
        "rpc_async",
        "rpc_sync",
        "remote",
    ]
)
NAMESPACES = frozenset(("aten", "prim"))


def load_torchscript(path: Path, trust: bool) -> nn.Module:
    """The TorchScript module in eval mode, its weights on the CPU.

    Raises:
        UserError: the file is damaged, or its program does more than compute.
    """
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not trust:
            _check_script(path)
        module: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        return module.float().eval()


def load_exported(path: Path) -> tuple[nn.Module, tuple[int, ...] | None]:
    """The program of a trusted ``.pt2`` file, and the shape of the input it was exported with."""
    with readable(path), path.open("rb") as file:
        exported = torch.export.load(file)
        module = exported.module()
    for part in module.modules():  # its eval() is not supported: modes are part of the program
        part.training = False
    args = exported.example_inputs[0] if exported.example_inputs else ()
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    shape = tuple(int(n) for n in tensors[0].shape) if tensors else None
    return module.requires_grad_(False), shape


def _check_script(path: Path) -> None:
    """Refuse what is not plain TorchScript, before any of it is loaded.

    Records are listed and read by the reader that ``torch.jit.load`` uses: another could be made
    to see another program in the same bytes.
    """
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise EOFError(f"{bad} has a wrong checksum")
    reader = torch._C.PyTorchFileReader(str(path))
    records = [name.lower() for name in reader.get_all_records()]  # it finds names in any case
    if len(set(records)) != len(records) or "model.json" in records or "bytecode.pkl" in records:
        raise UserError(
            f"{path} is not TorchScript as torch.jit.save writes it today: save it anew"
        )
    for name in records:
        content = reader.get_record(name)
        used: Iterator[str] = iter(())
        if name.endswith(".py"):
            used = _uses(ast.parse(content))
        elif name.endswith(".pkl"):
            used = _classes(content)
        for what in used:
            raise UserError(
                f"{path} uses {what} in its program, which may do more than compute:"
                " pass --trust if you trust its origin"
            )


def _classes(content: bytes) -> Iterator[str]:
    """Classes written in C++, whose own code sets their state."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "GLOBAL" and "torch.classes" in str(argument).replace(" ", "."):
            yield str(argument).replace(" ", ".")


def _uses(tree: ast.AST) -> Iterator[str]:
    """Whatever in the program is not arithmetic."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            foreign = _is_name(node.value, "ops") and node.attr not in NAMESPACES
            if foreign or node.attr in FORBIDDEN:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and _is_name(node.func, "getattr"):
            last = node.args[-1] if node.args else None
            if not isinstance(last, ast.Constant) or last.value in FORBIDDEN:
                yield ast.unparse(node)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
