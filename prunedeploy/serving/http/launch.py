"""A server in a process of its own, for as long as it is needed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.serving.http.options import ServeOptions

STARTED = "serving on "  # what the command serve prints first, before its URL
END_TIMEOUT = 60.0  # seconds


@contextmanager
def launched(engine: Path, options: ServeOptions) -> Iterator[str]:
    """Serve ``engine`` at a free port of this machine, and yield the URL.

    Raises:
        UserError: the server does not start, for the reason that it gives.
    """
    flags = [
        text
        for field in dataclasses.fields(options)
        for text in (f"--{field.name.replace('_', '-')}", str(getattr(options, field.name)))
    ]
    command = [*(sys.executable, "-P", "-m", "prunedeploy", "serve", str(engine), "--port", "0")]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *flags], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith(STARTED):
                process.wait(END_TIMEOUT)
                log.seek(0)
                said = log.read().strip().splitlines() or ["it says nothing"]
                raise UserError(said[-1].removeprefix("prunedeploy: error: "))
            yield line.removeprefix(STARTED).strip()
        finally:
            process.terminate()
            try:
                process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
