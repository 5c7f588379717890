"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT|MODEL",
        help="A PyTorch checkpoint or an ONNX model: a file, a folder, or owner/name on the hub.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.py:factory",
        help="The network's architecture, where it is not recognised; pkg.module:factory also.",
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="1,3,224,224", help="Shape of the input, batch first, which may vary afterwards."
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=int64[1,128]",
        help="An input of a checkpoint's network: name, type, shape; NAME=int64[1,128]:0..30521 "
        "with its range. Repeat it for several.",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1x128",
        help="Fix the sizes of an input; ? leaves one open. Repeat it for several inputs. "
        "NAME=1x64,1x128 is for both sizes.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Allow the checkpoint to run the code that it contains.")
]
Mask = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Read pruning masks from this file.")
]
WeightSet = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help="Choose one of several sets of weights, by its key or by the prefix of its names.",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        metavar="backbone.", help="Take only the weights whose names begin so, without it."
    ),
]
Threads = Annotated[int, typer.Option(min=0, help="Number of threads; 0 leaves it to the runtime.")]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Mean that is subtracted from pixels in [0, 1]; known for recognised networks.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Standard deviation that pixels are then divided by."),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="PATH", help="Write the result to this path."),
]
Remote = Annotated[
    str | None, typer.Option(metavar="USER@HOST", help="Do the work on this machine, over SSH.")
]
SshOption = Annotated[
    list[str] | None,
    typer.Option(metavar="'-p 2222'", help="Pass this option to ssh; repeat it for several."),
]
Timeout = Annotated[
    float, typer.Option(min=1, help="Give up on the remote machine after so many seconds.")
]
