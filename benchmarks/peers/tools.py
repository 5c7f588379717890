"""The other channel removers, each as its documentation runs it. Only the worker imports this."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from peers.case import Case, is_weight
from peers.result import Result, error, module_weights, outputs

FLAT = (nn.LSTM, nn.GRU)
WRITERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding, nn.BatchNorm2d)


def torch_pruning(case: Case, path: Path) -> Result:  # noqa: ARG001
    """Torch-Pruning removes what it is told: here every group whose weights are all zero.

    As its own importances do, the driver looks at weights and at scales of BatchNorm, not at
    biases and shifts.
    """
    import torch_pruning as tp

    model = copy.deepcopy(case.module)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=case.inputs)
    kinds = [nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.LSTM, nn.GRU, nn.Embedding]
    for group in graph.get_all_groups(root_module_types=kinds):
        root = group[0].dep
        zero = _zero_in_group(graph, group)
        if zero:
            again = graph.get_pruning_group(root.target.module, root.handler, zero)
            if graph.check_pruning_group(again):
                again.prune()
    return _module_result(case, model)


def _zero_in_group(graph: object, group: object) -> list[int]:
    """Channels of the group's root that nothing in the group writes a weight for."""
    total: Tensor | None = None
    for k, (dep, idxs) in enumerate(group):
        module = dep.target.module
        if not graph.is_out_channel_pruning_fn(dep.handler):
            continue
        rows = _rows(module)
        if rows is None:
            continue
        if total is None:
            total = torch.zeros(len(idxs))
        at = torch.as_tensor(list(group[k].root_idxs))
        total.index_add_(0, at, rows[torch.as_tensor(list(idxs))])
    return [] if total is None else torch.nonzero(total == 0).flatten().tolist()


def _rows(module: nn.Module) -> Tensor | None:
    """The size of the weights that write each channel."""
    if isinstance(module, FLAT):
        units = module.hidden_size
        parts = (module.weight_ih_l0, module.weight_hh_l0)
        return sum(p.detach().abs().reshape(-1, units, p.shape[1]).sum((0, 2)) for p in parts)
    if not isinstance(module, WRITERS):
        return None
    weight = module.weight.detach().abs()
    if isinstance(module, nn.Embedding) or (
        isinstance(module, nn.ConvTranspose2d) and module.groups == 1
    ):
        weight = weight.transpose(0, 1)
    return weight.flatten(1).sum(1) if weight.ndim > 1 else weight


def torch_simplify(case: Case, path: Path) -> Result:  # noqa: ARG001
    """torch-simplify finds zeros itself and keeps what constants add as maps."""
    import simplify

    if len(case.inputs) != 1:
        raise TypeError("takes one input")
    model = copy.deepcopy(case.module)
    model = simplify.simplify(model, torch.zeros_like(case.inputs[0][:1]))
    return _module_result(case, model)


def openvino(case: Case, path: Path) -> Result:
    """OpenVINO's offline transformations, on the ONNX file that prunedeploy reads too."""
    import openvino as ov
    from openvino._offline_transformations import (
        apply_moc_transformations,
        apply_pruning_transformation,
    )

    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    model = core.read_model(path)
    model.reshape({k: tuple(x.shape) for k, x in enumerate(case.inputs)})
    before = _constants(model)
    apply_moc_transformations(model, True)
    apply_pruning_transformation(model)
    model.validate_nodes_and_infer_types()
    after = _constants(model)
    compiled = core.compile_model(model, "CPU")
    values = compiled([x.numpy() for x in case.inputs])
    difference = error(_expected(case), [torch.from_numpy(values[k]) for k in range(len(values))])
    return Result(before - after, case.removable, difference)


def _constants(model: object) -> int:
    nodes = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    floating = [n for n in nodes if n.get_output_element_type(0).is_real()]
    shapes = [tuple(node.get_output_shape(0)) for node in floating]
    return sum(torch.Size(shape).numel() for shape in shapes if is_weight(shape))


@torch.no_grad()
def _module_result(case: Case, model: nn.Module) -> Result:
    computed = outputs(model(*case.inputs))
    (before, _), (after, maps) = module_weights(case.module), module_weights(model)
    return Result(before - after, case.removable, error(_expected(case), computed), maps)


@torch.no_grad()
def _expected(case: Case) -> list[Tensor]:
    return outputs(case.module(*case.inputs))


TOOLS: dict[str, tuple[str, Callable[[Case, Path], Result]]] = {
    "Torch-Pruning": ("torch-pruning", torch_pruning),
    "torch-simplify": ("torch-simplify", torch_simplify),
    "OpenVINO": ("openvino", openvino),
}


def version(tool: str) -> str:
    """The version of the package behind a tool."""
    return metadata.version(TOOLS[tool][0])


def allow_torchvision() -> torch.library.Library:
    """torchvision imports on a CPU build of torch once these two operators have a signature."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
