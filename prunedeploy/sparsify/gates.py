"""Gates: a trained factor behind every BatchNorm (You et al., "Gate Decorator", NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.scores.members import named, scales
from prunedeploy.sparsify.units import Scores, Units


class _Times(nn.Module):
    def __init__(self, gate: nn.Parameter) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.gate


class Gates:
    """One factor, 1 at first, a channel of each BatchNorm of ``module``, scaling gamma and beta.

    ``fold`` multiplies them in and leaves plain weights.

    Raises:
        UserError: there is no BatchNorm.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = gated_norms(module)
        self._module = module
        self.factors = {
            name: nn.Parameter(torch.ones_like(norm.weight)) for name, norm in self._norms.items()
        }
        for name, norm in self._norms.items():
            for key in ("weight", "bias"):
                parametrize.register_parametrization(norm, key, _Times(self.factors[name]))
        self._scores = {name: torch.zeros_like(each) for name, each in self.factors.items()}

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Train them with the rest, without weight decay."""
        optimizer.add_param_group({"params": list(self.factors.values()), "weight_decay": 0.0})

    def penalty(self) -> Tensor:
        """The sum of all |gate|."""
        return torch.stack([each.abs().sum() for each in self.factors.values()]).sum()

    def listen(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Add up |g dL/dg| before each step, from zero, until the handle is removed."""
        self._scores = {name: torch.zeros_like(each) for name, each in self.factors.items()}
        return optimizer.register_step_pre_hook(lambda *_: self._add())

    def scores(self, units: Units) -> Scores:
        """What was added up, summed over the BatchNorms of a channel; none where there is none."""
        values = {f"{name}.weight": each for name, each in self._scores.items()}
        by_group = {}
        for group in units:
            norms = scales(self._module, group)
            if norms is None:
                by_group[group.name] = torch.zeros(group.count)
            else:
                by_group[group.name] = named(norms, "weight").gather(values)
        return by_group

    def state_dict(self) -> dict[str, Tensor]:
        """What was added up; the gates themselves are in the module's state."""
        return {name: each.clone() for name, each in self._scores.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on adding up."""
        self._scores = {name: each.clone() for name, each in state.items()}

    def fold(self) -> None:
        """Multiply the gates into gamma and beta."""
        for norm in self._norms.values():
            for key in ("weight", "bias"):
                parametrize.remove_parametrizations(norm, key)

    @torch.no_grad()
    def _add(self) -> None:
        for name, gate in self.factors.items():
            if gate.grad is not None:
                self._scores[name] += (gate * gate.grad).abs()


def gated_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorms that gates stand behind, by name.

    Raises:
        UserError: there is none.
    """
    norms = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.affine
    }
    if not norms:
        raise UserError("the network has no BatchNorm that gates could stand behind")
    return norms
