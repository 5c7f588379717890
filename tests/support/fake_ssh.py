"""An ssh that talks to nobody: a device that answers what a test wants, in the files of a folder.

``ssh`` in the folder is a program that answers the scripts of ``prunedeploy.remote``: ``events`` is
what ``bench.py`` prints, ``result.tar.gz`` what comes back; ``endless`` names the answer that never
ends: ``events``, ``line``, ``file``, ``look``, ``errors``.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python} -P
import hashlib, os, sys
here, script = {here!r}, sys.argv[-1]
endless = open(os.path.join(here, "endless")).read()

def forever(to, data):
    try:
        while True:
            os.write(to, data)
    except BrokenPipeError:
        os._exit(255)

if "uname -m" in script:
    if endless == "look":
        forever(1, b"x86_64 " * 9000)
    if endless == "errors":
        forever(2, b"error " * 9000)
    print({machine!r}, *("/bin/" + x for x in ("python3", "tar", "sha256sum", "timeout")))
elif "status -c SHA256SUMS" in script:
    print("ready")
elif "bench.py --events" in script:
    if endless == "events":
        forever(1, b'{{"event": "step", "say": "' + b"x" * 9000 + b'"}}\\n')
    if endless == "line":
        forever(1, b"x" * 60000)
    sys.stdout.buffer.write(open(os.path.join(here, "events"), "rb").read())
elif "tar czf" in script:
    data = open(os.path.join(here, "result.tar.gz"), "rb").read()
    print(hashlib.sha256(data).hexdigest(), "x")
elif "tail -c" in script:
    if endless == "file":
        forever(1, b"x" * 60000)
    sys.stdout.buffer.write(open(os.path.join(here, "result.tar.gz"), "rb").read())
"""


def install(folder: Path, machine: str = "x86_64") -> Path:
    """The folder that has the program, for PATH."""
    folder.mkdir(exist_ok=True)
    text = PROGRAM.format(python=sys.executable, here=str(folder), machine=machine)
    (folder / "ssh").write_text(text)
    (folder / "ssh").chmod(0o755)
    (folder / "endless").write_text("")
    (folder / "events").write_bytes(b"")
    return folder
