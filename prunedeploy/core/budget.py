"""What a stranger's file may cost: memory and steps in proportion to what the file really has.

A file of a few hundred bytes can ask for terabytes: a compressed run of zeros, a view of one number
as a billion, an operator that repeats its operand, a loop without end. No machine is large enough
to find that out by trying, so whoever reads or computes asks here first. The limits lie far above
what networks take: compressed masks of zeros and ones, causal masks made from nothing, attention
over long sequences and images that are enlarged pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.core.errors import UserError

MIB = 1 << 20
EXPANDED = 256 * MIB  # elements of tensors that store next to none: sparse, or views of few numbers


class OverBudgetError(UserError):
    """A file asks for more than a file of its size has reason to."""


@dataclass(frozen=True)
class Budget:
    """The limits for one file.

    Attributes:
        size: bytes that the file stores, those of files beside it included.
    """

    size: int

    @property
    def unpacked(self) -> int:
        """Bytes of all that is compressed or sparse in the file, once it is neither."""
        return 128 * MIB + 256 * self.size

    @property
    def opcodes(self) -> int:
        """Steps of a pickle, which is a small program."""
        return 300_000 + self.size // 16

    @property
    def entries(self) -> int:
        """Tensors in a file that names each of them: most of its bytes are theirs."""
        return 20_000 + self.size // 1024

    @property
    def seconds(self) -> int:
        """Processor time of what reads all of the file once, on a slow machine."""
        return 10 + self.size // 50_000

    @property
    def constants(self) -> int:
        """Elements of what follows from the file alone, at any one time."""
        return 32 * MIB + 4 * self.size

    def values(self, fed: int) -> int:
        """Elements that a model holds at any one time when it is run on ``fed`` elements."""
        return 64 * MIB + 4 * self.size + 256 * fed

    def steps(self, nodes: int, fed: int) -> int:
        """Nodes that the bodies of a model of ``nodes`` nodes run for one set of inputs."""
        return 20_000 + 2000 * nodes + 16 * fed

    def check(self, what: str, needed: int, allowed: int, unit: str = "elements") -> None:
        """Refuse what would take more than is allowed.

        Raises:
            OverBudgetError: it would; the message begins with ``what``.
        """
        if needed > allowed:
            raise OverBudgetError(
                f"{what} would take {needed:,} {unit}, more than the {allowed:,} that a file of"
                f" {self.size:,} bytes has reason to: it is damaged or made to exhaust memory"
            )
