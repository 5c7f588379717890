"""Runs one peer over cases, in the peers' environment: a line of JSON a case on standard output.

    python worker.py TOOL FOLDER COLLECTION NAME/REGIME ...

FOLDER has the dense networks as ONNX. A case that takes longer than its limit ends the process, as
does a crash; whoever started it goes on with the next case.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

HERE = Path(__file__).resolve()
SUPPORT = (HERE.parents[1], HERE.parents[2] / "tests" / "support", HERE.parents[2])
sys.path[:0] = [str(folder) for folder in SUPPORT]
MARK = "@result "
LIMIT_S = 120


def main() -> None:
    """Every case in turn."""
    import warnings

    warnings.filterwarnings("ignore")
    import torch

    from peers import cases, tools
    from peers.result import Result, one_line

    tool, folder, collection, *keys = sys.argv[1:]
    library = tools.allow_torchvision()
    torch.set_num_threads(1)
    print(MARK + json.dumps({"version": tools.version(tool)}), flush=True)
    for key in keys:
        signal.alarm(LIMIT_S)
        case = cases.case(collection, key)
        begin = time.perf_counter()
        try:
            result = tools.TOOLS[tool][1](case, Path(folder) / f"{case.slug}.onnx")
        except Exception as exception:
            result = Result(0, case.removable, message=one_line(exception), failed=True)
        result = replace(result, seconds=round(time.perf_counter() - begin, 2))
        signal.alarm(0)
        print(MARK + json.dumps({"case": key, "result": asdict(result)}), flush=True)
    del library


if __name__ == "__main__":
    main()
