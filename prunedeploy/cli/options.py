"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Arch = Annotated[
    str | None,
    typer.Option(metavar="NAME|pkg.module:factory", help="Architecture, where not recognised."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Let the checkpoint run the code it carries.")]
Mask = Annotated[Path | None, typer.Option(metavar="FILE", help="Masks kept in a separate file.")]
WeightSet = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="NAME", help="Which of several sets of weights, by key or prefix."
    ),
]
Threads = Annotated[int, typer.Option(min=0, help="Threads; 0 leaves it to the runtime.")]
Mean = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Of pixels in [0, 1]; that of the network.")
]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", help="The same.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", metavar="PATH")]
Remote = Annotated[
    str | None, typer.Option(metavar="USER@HOST", help="Do it on this machine, over SSH.")
]
SshOption = Annotated[
    list[str] | None, typer.Option(metavar="'-p 2222'", help="Given to ssh; repeat for several.")
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that a remote machine has for all.")]
