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
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_group
from prunedeploy.shrinking.examples import INPUT, Call
from prunedeploy.shrinking.node_names import name_by_weights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    OpenAxes: TypeAlias = (
        tuple[dict[int, torch.export.Dim], ...] | dict[str, dict[int, torch.export.Dim]]
    )

OPSET = 20
OUTPUT = "output"


def export(module: torch.nn.Module, input_shape: Sequence[int], path: str | Path) -> Path:
    """Write ``module`` as ONNX, parameter names kept, with a dynamic batch where it allows one.

    Args:
        module: in eval mode, one tensor in, one or several tensors out.
        input_shape: of one batch, for example (1, 3, 224, 224).
        path: the file to write.

    Returns:
        ``path``.

    Raises:
        UserError: the module cannot run on such an input, or torch cannot export it.

    Example:
        >>> import prunedeploy, torch
        >>> module = torch.nn.Conv2d(3, 8, 3).eval()
        >>> prunedeploy.export(module, (1, 3, 8, 8), "conv.onnx").name
        'conv.onnx'
    """
    from prunedeploy.graph import model as models

    program = to_model(module, input_shape)
    with atomic_group(Path(path)) as temporary:
        models.save(program, temporary)
    return Path(path)


def to_model(
    module: torch.nn.Module, input_shape: Sequence[int], *, optimize: bool = True
) -> ir.Model:
    """Export ``module`` to a model in memory, which shares its weights instead of copying them.

    Without ``optimize`` the exporter folds nothing: every weight is the module's own, and every
    BatchNorm stands for itself.
    """
    import torch

    dtype = next(module.parameters(), torch.zeros(0)).dtype
    # two samples: torch takes a batch of one for a constant, and a batch must not be
    batch, single = (max(2, input_shape[0]), *input_shape[1:]), tuple(input_shape)
    # perhaps a network of one fixed batch, as torch.export makes them, or one of tokens
    tries = [(shape, kind) for kind in (dtype, torch.int64) for shape in (batch, single)]
    reasons = []
    for shape, kind in tries:
        example = _example(module, shape, kind)
        if not isinstance(example, str):
            break
        reasons.append(example)
    if isinstance(example, str):
        raise UserError(
            f"the network does not run on an input of shape {','.join(map(str, input_shape))}"
            f" ({reasons[1]}): {_inputs(module) or 'give its shape with --shape 1x3x224x224'}"
        )
    if example.shape != batch:
        return _export(module, Call((example,)), None, optimize)
    if isinstance(module, torch.jit.ScriptModule):
        return _export_script(module, example)
    fixed = Call((torch.zeros(single, dtype=example.dtype),))
    return _export_open(module, Call((example,)), fixed, optimize)


def call_to_model(module: torch.nn.Module, call: Call, *, optimize: bool = True) -> ir.Model:
    """``to_model`` for a module that is called with the arguments of ``call``.

    Raises:
        UserError: it does not run on them, draws random numbers, or cannot be exported.
    """
    import torch

    _check_deterministic(module, call)
    if isinstance(module, torch.jit.ScriptModule):
        if len(call.args) != 1:
            raise UserError("a TorchScript program is taken with one input: give one tensor")
        return _export_script(module, call.args[0])
    several = call.in_batches()
    if several is None or isinstance(_outputs(module, several), str):
        return _export(module, call, None, optimize)
    return _export_open(module, several, call, optimize)


def _export_open(module: torch.nn.Module, call: Call, fixed: Call, optimize: bool) -> ir.Model:
    """With an open batch, as ``call`` has one; as ``fixed`` where the code fixes its size."""
    import torch

    batch = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
    by_name = dict.fromkeys(call.kwargs, batch)
    try:
        program = _export(module, call, by_name or (batch,) * len(call.args), optimize)
        dims = [value.shape for value in program.graph.inputs]
        if not any(shape is not None and isinstance(shape[0], int) for shape in dims):
            return program
    except torch.onnx.OnnxExporterError:
        pass
    # the batch size is part of the network's code, so it is the one that was asked for
    return _export(module, fixed, None, optimize)


def _example(
    module: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor | str:
    """An input that the module was seen to run on, or why it does not.

    This distinguishes a wrong input shape from a network that cannot be exported.

    Raises:
        UserError: it computes something else each time.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    try:
        example = torch.zeros(shape, dtype=dtype)
        sample = torch.rand(shape, generator=generator)
        sample = sample.to(dtype) if dtype.is_floating_point else (2 * sample).to(dtype)
    except Exception as error:  # of a shape that makes no sense
        return _first_line(error)
    outputs = _outputs(module, Call((sample,)))
    if isinstance(outputs, str):
        return outputs
    _check_deterministic(module, Call((sample,)), outputs)
    return example


def _outputs(module: torch.nn.Module, call: Call) -> list[torch.Tensor] | str:
    """What the module computes, or why it does not run."""
    import torch

    try:
        # what the network prints is no part of the command's output
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            return _tensors(module(*call.args, **call.kwargs))
    except Exception as error:  # the network's own code may raise anything
        return _first_line(error)


def outputs_of(module: torch.nn.Module, call: Call) -> list[torch.Tensor]:
    """The tensors that the module computes, in order.

    Raises:
        UserError: it does not run on such inputs.
    """
    outputs = _outputs(module, call)
    if isinstance(outputs, str):
        raise UserError(f"the network does not run on {call.described} ({outputs}): {call.advice}")
    return outputs


def _check_deterministic(
    module: torch.nn.Module, call: Call, first: list[torch.Tensor] | None = None
) -> None:
    """Refuse a module that computes something else each time.

    Raises:
        UserError: it does, or it does not run on such inputs.
    """
    runs = [first or outputs_of(module, call), outputs_of(module, call)]
    if not all(map(_same, *runs)):
        raise UserError(
            "the network's outputs are random, two runs on one input differ: leave out what draws"
            " numbers in eval mode (dropout with training=True, noise)"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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


def _export(
    module: torch.nn.Module,
    call: Call,
    dynamic: OpenAxes | None,
    optimize: bool,
) -> ir.Model:
    import torch

    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                call.args,
                kwargs=dict(call.kwargs) or None,
                input_names=call.names(module),
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                dynamo=True,
                optimize=optimize,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        if dynamic is not None:
            raise
        raise UserError(f"torch cannot export this network: {_why(error)}") from None
    assert program is not None
    for node in program.model.graph.all_nodes():
        # where in whose source folder the operator was called: nobody else's business
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    name_by_weights(program.model.graph)
    return program.model


def _export_script(module: torch.jit.ScriptModule, example: torch.Tensor) -> ir.Model:
    """A TorchScript program, by torch's older exporter: the newer one takes none."""
    import onnx
    import onnx_ir as ir
    import torch

    try:
        with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/program.onnx"
            torch.onnx.export(
                module,
                (example,),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                dynamo=False,
            )
            return ir.from_proto(onnx.load(path))
    except Exception as error:  # its errors have no common base
        raise UserError(f"torch cannot export this TorchScript program: {_why(error)}") from None


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
