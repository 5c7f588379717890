"""A torch module as an ONNX model."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_group
from prunedeploy.shrinking.example_inputs import ExampleInput, by_name

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

OPSET = 20
INPUT, OUTPUT = "input", "output"


def export(module: torch.nn.Module, input_shape: Sequence[int], path: Path) -> Path:
    """Write ``module`` as ONNX, parameter names kept, with a dynamic batch where it allows one.

    Args:
        module: in eval mode, one tensor in, one or several tensors out.
        input_shape: of one batch, for example (1, 3, 224, 224).
        path: the file to write.

    Returns:
        ``path``.

    Raises:
        UserError: the module cannot run on such an input, or torch cannot export it.
    """
    from prunedeploy.graph import model as models

    program = to_model(module, input_shape)
    with atomic_group(Path(path)) as temporary:
        models.save(program, temporary)
    return Path(path)


def to_model(
    module: torch.nn.Module,
    input_shape: Sequence[int],
    *,
    inputs: Sequence[ExampleInput] = (),
    optimize: bool = True,
) -> ir.Model:
    """Export ``module`` to a model in memory, which shares its weights instead of copying them.

    ``inputs`` are what it takes where that is more than one tensor like its weights: they go to the
    arguments of their names, or in their order. Without ``optimize`` the exporter folds nothing:
    every weight is the module's own, and every BatchNorm stands for itself.
    """
    import torch

    call, is_batched = _call_of(module, inputs) if inputs else _usual_call(module, input_shape)
    if not is_batched:
        return _export(module, call, False, optimize)
    if isinstance(module, torch.jit.ScriptModule):
        return _export_script(module, call)
    try:
        program = _export(module, call, True, optimize)
        shapes = [value.shape for value in program.graph.inputs]
        if any(dims is not None and not isinstance(dims[0], int) for dims in shapes):
            return program
    except torch.onnx.OnnxExporterError:
        pass
    # the batch size is part of the network's code, so it is the one that was asked for
    single = inputs[0].shape[0] if inputs else input_shape[0]
    return _export(module, call.of_batch(single), False, optimize)


@dataclass(frozen=True)
class _Call:
    """The arguments that a module is exported with, and what its model's inputs are called."""

    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    by_name: bool = False

    @property
    def args(self) -> tuple[torch.Tensor, ...]:
        return () if self.by_name else self.tensors

    @property
    def kwargs(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.tensors, strict=True)) if self.by_name else {}

    def of_batch(self, size: int) -> _Call:
        """The same with the first ``size`` samples, which are no more than there are."""
        return replace(self, tensors=tuple(tensor[:size] for tensor in self.tensors))


def _usual_call(module: torch.nn.Module, input_shape: Sequence[int]) -> tuple[_Call, bool]:
    """One tensor like the module's weights, or one of integers; whether it is of several samples.

    Raises:
        UserError: the module does not run on either.
    """
    import torch

    dtype = next(module.parameters(), torch.zeros(0)).dtype
    # two samples: torch takes a batch of one for a constant, and a batch must not be
    batch = (max(2, input_shape[0]), *input_shape[1:])
    # perhaps a network of one fixed batch, as torch.export makes them, or one of tokens
    tries = [(shape, kind) for kind in (dtype, torch.int64) for shape in (batch, (*input_shape,))]
    reasons = []
    for shape, kind in tries:
        generator = torch.Generator().manual_seed(0)
        sample = torch.rand(shape, generator=generator)
        sample = sample.to(kind) if kind.is_floating_point else (2 * sample).to(kind)
        reason = _reason(module, _Call((INPUT,), (sample,)))
        if reason is None:
            return _Call((INPUT,), (torch.zeros(shape, dtype=kind),)), shape == batch
        reasons.append(reason)
    how = _inputs(module) or "give its shape with --shape 1x3x224x224"
    raise UserError(
        f"the network does not run on an input of shape {','.join(map(str, input_shape))}"
        f" ({reasons[1]}): {how}"
    )


def _call_of(module: torch.nn.Module, inputs: Sequence[ExampleInput]) -> tuple[_Call, bool]:
    """The inputs that were stated; whether they are of several samples.

    Raises:
        UserError: the module does not run on them.
    """
    import torch

    names, named = tuple(each.name for each in inputs), by_name(module, inputs)
    first = inputs[0].shape[0]
    sizes = (first,) if any(x.shape[0] != first for x in inputs) else (max(2, first), first)
    reason: str | None = None
    for size in dict.fromkeys(sizes):
        generator = torch.Generator().manual_seed(0)
        batches = [each.shape[0] if len(sizes) == 1 else size for each in inputs]
        drawn = [x.draw(n, generator) for x, n in zip(inputs, batches, strict=True)]
        call = _Call(names, tuple(drawn), named)
        reason = _reason(module, call)
        if reason is None:
            return call, len(sizes) > 1 and size == sizes[0]
    stated = ", ".join(f"{x.name}={x.dtype}[{','.join(map(str, x.shape))}]" for x in inputs)
    raise UserError(
        f"the network does not run on {stated} ({reason}): state its inputs with --input"
    )


def _reason(module: torch.nn.Module, call: _Call) -> str | None:
    """The reason why the module does not run on such arguments, None where it does.

    This distinguishes a wrong input shape from a network that cannot be exported.

    Raises:
        UserError: it computes something else each time.
    """
    import torch

    try:
        # what the network prints is no part of the command's output
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            runs = [_tensors(module(*call.args, **call.kwargs)) for _ in range(2)]
    except Exception as error:  # the network's own code may raise anything
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    if not all(map(_same, *runs)):
        raise UserError(
            "the network's outputs are random, two runs on one input differ: leave out what draws"
            " numbers in eval mode (dropout with training=True, noise)"
        )
    return None


def _tensors(outputs: object) -> list[torch.Tensor]:
    import torch
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for what threads round in another order."""
    import torch

    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def _inputs(module: torch.nn.Module) -> str:
    """Advice for a network that takes several inputs; empty for one that takes one."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p.name for p in parameters if p.kind in kinds and p.default is p.empty]
    if len(needed) < 2:
        return ""
    return (
        f"it takes {len(needed)} inputs ({', '.join(needed)}): state each with --input"
        f" {needed[0]}=int64[1,128]"
    )


def _why(error: BaseException) -> str:
    """The reason why torch cannot export a network, in one line."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    text = str(cause).strip()
    if "data-dependent" in text.lower() or "DataDependent" in type(cause).__name__:
        return (
            "its forward decides by the values of its input: write that with torch.where or"
            " torch.cond"
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first[:200] or type(cause).__name__


def _export(module: torch.nn.Module, call: _Call, batched: bool, optimize: bool) -> ir.Model:
    """``module`` as a model, its batch open where it is ``batched``."""
    import torch

    dim = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
    dynamic = dict.fromkeys(call.names, dim) if call.by_name else (dim,) * len(call.tensors)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                call.args,
                kwargs=call.kwargs or None,
                input_names=None if call.by_name else call.names,
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_shapes=dynamic if batched else None,
                dynamo=True,
                optimize=optimize,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        if batched:
            raise
        raise UserError(f"torch cannot export this network: {_why(error)}") from None
    assert program is not None
    for node in program.model.graph.all_nodes():
        # where in whose source folder the operator was called: nobody else's business
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    return program.model


def _export_script(module: torch.jit.ScriptModule, call: _Call) -> ir.Model:
    """A TorchScript program, by torch's older exporter: the newer one takes none."""
    import onnx
    import onnx_ir as ir
    import torch

    try:
        with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/program.onnx"
            torch.onnx.export(
                module,
                call.tensors,
                path,
                input_names=call.names,
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_axes={name: {0: "batch"} for name in (*call.names, OUTPUT)},
                dynamo=False,
            )
            return ir.from_proto(onnx.load(path))
    except Exception as error:  # its errors have no common base
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"torch cannot export this TorchScript program: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress and its warnings about absent libraries are not for our users."""
    silent = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
