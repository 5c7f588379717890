"""The result of a tool for a case, in a form that every process and a JSON file can hold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from peers.case import is_weight

# Above what float32 rounding does to the deepest of these networks, far below a lost channel.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Result:
    """``removed`` weights of ``removable``; ``error`` is relative to the range of the output.

    ``added`` counts the values of maps that take constants over; ``message`` is the error of a
    tool that failed, or what refused what it left.
    """

    removed: int = 0
    removable: int = 0
    error: float = 0.0
    added: int = 0
    message: str = ""
    failed: bool = False
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """The share removed of what can be; 1 where that is nothing."""
        return self.removed / self.removable if self.removable else 1.0

    @property
    def right(self) -> bool:
        """Whether it ran and computes what it did. A NaN is wrong."""
        return not self.failed and self.error <= TOLERANCE

    @property
    def verdict(self) -> str:
        """One of EXACT, part, kept, WRONG, CRASH."""
        if self.failed:
            return "CRASH"
        if not self.right:
            return "WRONG"
        if self.removed <= 0:
            return "kept"
        return "EXACT" if self.removed >= self.removable else "part"


Results = dict[str, dict[str, Result]]  # case -> tool -> result


def load(path: Path) -> tuple[Results, dict[str, str]]:
    """The saved results, and the tools' versions; nothing where there is no such file."""
    if not path.exists():
        return {}, {}
    document = json.loads(path.read_text())
    versions = document.pop("versions")
    results = {
        case: {tool: Result(**values) for tool, values in tools.items()}
        for case, tools in document.items()
    }
    return results, versions


def save(results: Results, versions: dict[str, str], path: Path) -> None:
    """A line a case and tool, so that differences read well; only what is not the default."""
    rows = [f'"versions": {json.dumps(versions, sort_keys=True)}']
    for case, tools in sorted(results.items()):
        cells = [
            f" {json.dumps(tool)}: {json.dumps(_brief(r))}" for tool, r in sorted(tools.items())
        ]
        rows.append(f"{json.dumps(case)}: {{\n" + ",\n".join(cells) + "}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def _brief(result: Result) -> dict[str, object]:
    default = asdict(Result())
    return {key: value for key, value in asdict(result).items() if value != default[key]}


def outputs(result: object) -> list[Tensor]:
    """One tensor or several, as a list."""
    values = result if isinstance(result, tuple | list) else (result,)
    return [torch.as_tensor(value) for value in values]


def error(expected: list[Tensor], computed: list[Tensor]) -> float:
    """Largest difference over all outputs, each relative to the range of what is expected."""
    worst = 0.0
    for want, got in zip(expected, computed, strict=True):
        if want.shape != got.shape:
            return float("inf")
        span = float(want.max() - want.min()) or 1.0
        relative = float((want.double() - got.double()).abs().max()) / span
        worst = relative if not relative <= worst else worst
    return worst


def module_weights(module: nn.Module) -> tuple[int, int]:
    """Weights of a torch module, and values of maps (``bf`` is what torch-simplify calls them)."""
    named = [(name, p) for name, p in module.named_parameters() if is_weight(tuple(p.shape))]
    maps = sum(p.numel() for name, p in named if name.endswith("bf"))
    return sum(p.numel() for _, p in named) - maps, maps


def one_line(exception: BaseException) -> str:
    """Its kind and the first line of what it says."""
    lines = str(exception).strip().splitlines()
    return f"{type(exception).__name__}: {lines[0] if lines else ''}"[:160]
