"""Which weights can go when channels die: the channels of a network, written down by hand.

The style is that of ``tests/support/regimes.py``: every layer names the channels that it reads and
writes by number, channels that must go together share a number, and the count is arithmetic. This
ledger adds grouped and transposed convolutions, gates, tensors of any kind, and counts weights
alone: tensors of at least two axes longer than one, which every tool has in the same form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import regimes
import torch
from torch import Tensor, nn

REGIMES = regimes.REGIMES
Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


@dataclass(frozen=True)
class Entry:
    """A layer as a stack of ``groups`` matrices, with the norm that scales its rows.

    A ``gate`` multiplies a channel that dies by itself: where its rows are zero, its bias stays, so
    that it is a constant. What is ``live`` writes a channel that dies, and is never zero. A
    depthwise convolution that is the ``sole`` reader of its input takes that along when it dies.
    """

    module: nn.Module
    norm: nn.Module | None
    reads: Tensor
    writes: Tensor
    groups: int = 1
    gate: bool = False
    live: bool = False
    sole: bool = True

    @property
    def depthwise(self) -> bool:
        """Whether every group reads one channel."""
        return self.groups > 1 and self.groups == len(self.reads)

    def matrices(self) -> Tensor:
        """The weight as [groups, outputs a group, inputs a group, ...]: a view."""
        weight = self.module.weight
        if isinstance(self.module, Transposed):
            return weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return weight.unflatten(0, (self.groups, -1))


@dataclass(frozen=True)
class Table:
    """A tensor that is no layer (an embedding, an LSTM's gates): the channels of some axes.

    Its slices along the ``writes`` axes are zero in a dead channel, those along the ``reads``
    axes when nobody reads it.
    """

    tensor: Tensor
    writes: dict[int, Tensor]
    reads: dict[int, Tensor]


@dataclass
class Ledger(regimes.Structure):
    """The channels of a network. Families of ``tests/support/regimes.py`` can write into it."""

    entries: list[Entry] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    biases: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def layer(
        self,
        name: str,
        reads: Tensor,
        norm: str = "",
        writes: Tensor | None = None,
        gate: bool = False,
        live: bool = False,
        sole: bool = True,
    ) -> Tensor:
        """Enter a layer; what it writes is new unless given, or what it reads where depthwise.

        Every group of a grouped convolution keeps its first channel on both sides, as a group
        without inputs or outputs is a case of its own.
        """
        module = self.network.get_submodule(name)
        groups = getattr(module, "groups", 1)
        transposed = isinstance(module, Transposed)
        width = module.weight.shape[1] * groups if transposed else len(module.weight)
        inputs = len(module.weight) if transposed else module.weight.shape[1] * groups
        depthwise = groups > 1 and groups == inputs
        if depthwise and width == inputs:
            writes = reads
        elif isinstance(module, nn.Linear):
            reads = reads.repeat_interleave(inputs // len(reads))
        if writes is None:
            writes = self.new(width)
        if groups > 1 and not depthwise:
            self.kept += [reads[:: inputs // groups], writes[:: width // groups]]
        folded = self.network.get_submodule(norm) if norm else None
        self.entries.append(Entry(module, folded, reads, writes, groups, gate, live, sole))
        return writes

    def table(
        self,
        tensor: Tensor,
        writes: dict[int, Tensor] | None = None,
        reads: dict[int, Tensor] | None = None,
    ) -> None:
        """Enter a tensor that is no layer."""
        self.tables.append(Table(tensor, writes or {}, reads or {}))

    def bias(self, vector: Tensor, ids: Tensor) -> None:
        """A vector added to channels that a table writes: zero where they die."""
        self.biases.append((vector, ids))

    def weights(self, dead: Tensor) -> int:
        """Weights left without the dead channels."""
        live, total = ~dead, 0
        for entry in self.entries:
            matrices = entry.matrices()
            outputs = live[entry.writes].reshape(entry.groups, -1).sum(1)
            inputs = live[entry.reads].reshape(entry.groups, -1).sum(1)
            total += int((outputs * inputs).sum()) * matrices.shape[3:].numel()
        for table in self.tables:
            sizes = list(table.tensor.shape)
            for axis, ids in (table.writes | table.reads).items():
                sizes[axis] = int(live[ids].sum())
            total += torch.Size(sizes).numel()
        return total

    def choose(self, fraction: float, random: torch.Generator) -> Tensor:
        """A fraction of every set of channels, as a mask over all numbers."""
        dead = torch.zeros(self.total, dtype=torch.bool)
        for ids in self.spaces:
            dead[self._some(ids, fraction, random)] = True
        return dead

    def _some(self, ids: Tensor, fraction: float, random: torch.Generator) -> Tensor:
        """Which die; never the first, and never what a grouped convolution keeps."""
        kept = torch.cat([ids[:1], *self.kept])
        free = ids[~torch.isin(ids, kept)]
        order = torch.randperm(len(free), generator=random)
        return free[order[: max(1, int(fraction * len(ids)))]]

    @torch.no_grad()
    def zero_writers(self, dead: Tensor, constants: Tensor, value: float = 0.0) -> None:
        """Everything that writes a dead channel is ``value``, but what shifts it is a constant."""
        for entry in self.entries:
            rows = dead[entry.writes]
            if entry.gate and not entry.live:
                entry.matrices()[rows[None]] = 0
            elif not entry.live:
                self._zero_rows(entry, rows, constants[entry.writes], value)
        for norm, ids in self.free_norms:
            _shift(norm, dead[ids], constants[ids])
        for table in self.tables:
            for axis, ids in table.writes.items():
                table.tensor.transpose(0, axis)[dead[ids]] = value
        for vector, ids in self.biases:
            vector[dead[ids]] = constants[ids][dead[ids]].to(vector)

    @torch.no_grad()
    def zero_readers(self, dead: Tensor) -> None:
        """Nobody reads a dead channel. Gates and depthwise convolutions carry it on."""
        for entry in self.entries:
            if not entry.depthwise:
                columns = dead[entry.reads].reshape(entry.groups, -1)
                entry.matrices().transpose(1, 2)[columns] = 0
        for table in self.tables:
            for axis, ids in table.reads.items():
                table.tensor.transpose(0, axis)[dead[ids]] = 0

    @torch.no_grad()
    def independent(self, fraction: float, random: torch.Generator) -> Tensor:
        """Zero rows layer by layer; which channels can go then.

        A channel can go when all its writers leave it zero; of a depthwise convolution and what
        it alone reads, one is enough; but where a gate follows, only the depthwise convolution's
        own rows are: a constant that is left in its place would be multiplied by what varies.
        """
        mortal = torch.zeros(self.total, dtype=torch.bool)
        mortal[torch.cat(self.spaces)] = True
        all_zero, one_depthwise = mortal.clone(), torch.zeros_like(mortal)
        gated, depthwise = torch.zeros_like(mortal), torch.zeros_like(mortal)
        for entry in self.entries:
            if entry.gate:
                gated[entry.writes] = True
                continue
            rows = torch.zeros_like(mortal)
            candidates = entry.writes[mortal[entry.writes]].unique()
            if len(candidates) and not (entry.depthwise and not entry.sole):
                rows[self._some(candidates, fraction, random)] = True
            self._zero_rows(entry, rows[entry.writes], torch.zeros(len(entry.writes)), 0.0)
            if entry.depthwise:
                one_depthwise |= rows
                depthwise[entry.writes] = True
            else:
                all_zero[entry.writes] &= rows[entry.writes]
        return (all_zero & ~(gated & depthwise)) | one_depthwise

    def _zero_rows(self, entry: Entry, rows: Tensor, constants: Tensor, value: float) -> None:
        entry.matrices()[rows.reshape(entry.groups, -1)] = value
        if entry.module.bias is not None:
            bias = constants if entry.norm is None else torch.zeros_like(constants)
            entry.module.bias[rows] = bias[rows].to(entry.module.bias)
        if entry.norm is not None:
            _shift(entry.norm, rows, constants)


def _shift(norm: nn.Module, rows: Tensor, constants: Tensor) -> None:
    norm.weight[rows] = 0
    norm.bias[rows] = constants[rows].to(norm.bias)


@torch.no_grad()
def randomise(network: nn.Module, inputs: tuple[Tensor, ...], random: torch.Generator) -> None:
    """Normal weights in scale, random affine parameters, BatchNorm statistics of a random batch."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    for module in network.modules():
        if isinstance(module, (*Convolution, *Transposed, nn.Linear)):
            gain = 1.0 if isinstance(module, nn.Linear) else 2.0
            fan = module.weight[0].numel()
            module.weight.normal_(0, (gain / fan) ** 0.5, generator=random)
            if module.bias is not None:
                module.bias.uniform_(-0.2, 0.2, generator=random)
        elif isinstance(module, Norm) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5, generator=random)
            module.bias.uniform_(-0.5, 0.5, generator=random)
        elif not list(module.children()) and not isinstance(module, nn.PReLU):
            for parameter in module.parameters():
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=random)
    for norm in norms:
        norm.train().momentum = 1.0
    if norms:
        network(*inputs)
    for norm in norms:
        norm.eval().momentum = 0.1
        scale = norm.running_var.clamp_(min=0.01).sqrt()
        norm.running_mean += scale * torch.randn(scale.shape, generator=random) / 10
        norm.running_var *= torch.rand(scale.shape, generator=random) / 2 + 0.75
    for parameter in network.parameters(recurse=False):
        parameter.normal_(0, 0.5, generator=random)


def signed_constants(count: int, random: torch.Generator) -> Tensor:
    """Between 0.2 and 1 in size, half of them negative, so that ReLU stops about half."""
    constants = torch.empty(count).uniform_(0.2, 1.0, generator=random)
    constants[torch.rand(count, generator=random) < 0.5] *= -1
    return constants
