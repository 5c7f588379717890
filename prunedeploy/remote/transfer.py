"""Transfers files to and from a device; broken transfers are resumed, hashes are compared."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.remote import ssh
from prunedeploy.remote.untrusted import text

ATTEMPTS = 4  # connections that may break on the way of one file
PAUSE = 1.0  # seconds before another connection: what is on its way arrives meanwhile
SHORT = 60.0  # seconds for a script that only looks
FOLDER = '"$HOME"/.cache/prunedeploy'
ENTER = f"umask 077; mkdir -p {FOLDER} && cd {FOLDER} || exit 9; "

# what is there of a bundle: "ready", or the bytes that have arrived
_LOOK = (
    "if [ -d {name} ]; then "
    "if (cd {name} && sha256sum --status -c SHA256SUMS); then echo ready; exit; fi; "
    "rm -rf {name}; fi; "
    "if [ -f {name}.part ]; then wc -c < {name}.part; else echo 0; fi"
)
# at its place: what an earlier connection may still be writing are the same bytes
_STORE = (
    "touch {name}.part; exec python3 -c '"
    'import shutil, sys; file = open("{name}.part", "r+b", 0); file.seek({there}); '
    "shutil.copyfileobj(sys.stdin.buffer.raw, file)'"
)
# the hash of all that arrived decides; a bundle is there whole or not at all
_UNPACK = (
    'set -- $(sha256sum {name}.part); if [ "$1" != {hash} ]; then rm -f {name}.part; exit 8; fi; '
    "rm -rf {name}.new && mkdir {name}.new && tar xzf {name}.part -C {name}.new "
    "--strip-components=1 && mv {name}.new {name} && rm {name}.part"
)


def send(to: ssh.Host, archive: Path, timeout: float, progress: Callable[[str], None]) -> str:
    """The bundle in ``archive`` on the device, unpacked; the name of its folder there.

    Raises:
        UserError: the connection broke too often (what arrived stays for the next time), or the
            device cannot store it.
    """
    digest = sha256(archive)
    name, total = digest[:16], archive.stat().st_size
    problem: UserError = UserError("")
    for attempt in range(ATTEMPTS):
        try:
            there = _there(to, name)
            if there is None:
                progress(f"the bundle is on {to.address} already")
                return name
            if there > total:
                ssh.run(to, ENTER + f"rm -f {name}.part", SHORT)
                there = 0
            if there < total:
                progress(f"sending the bundle to {to.address}{_from(there, total)}")
                with archive.open("rb") as file:
                    file.seek(there)
                    ssh.feed(to, ENTER + _STORE.format(name=name, there=there), file, timeout)
            status, output = ssh.run(to, ENTER + _UNPACK.format(name=name, hash=digest), timeout)
            if status == 0:
                return name
            if status != 8:
                raise UserError(f"{to.address} cannot unpack the bundle: {text(output)}")
            problem = UserError(f"the bundle does not arrive whole at {to.address}")
        except ssh.ConnectionLostError as error:
            problem = error
            if attempt == 0 and not _reached(error):
                raise
            progress(f"the connection to {to.address} broke, trying again")
            time.sleep(PAUSE)
    raise UserError(f"{problem}; what arrived stays there, the next try goes on from it")


def _reached(error: UserError) -> bool:
    """Whether another try may do better: not where the host is unknown or lets nobody in."""
    hopeless = ("Permission denied", "Host key", "Could not resolve", "refused", "No route")
    return not any(word in str(error) for word in hopeless)


def _there(to: ssh.Host, name: str) -> int | None:
    """The bytes of the archive that have arrived; None where it is unpacked already."""
    status, output = ssh.run(to, ENTER + _LOOK.format(name=name), 5 * SHORT)
    word = output.split()[0] if output.split() else ""
    if status != 0 or not (word == "ready" or re.fullmatch("[0-9]{1,18}", word)):
        raise UserError(f"{to.address} is no system that a bundle is for: {text(output)}")
    return None if word == "ready" else int(word)


def _from(there: int, total: int) -> str:
    return f", going on at {there / total:.0%}" if there else f", {total / 1e6:.1f} MB"


def fetch(
    to: ssh.Host,
    name: str,
    pack: Sequence[str],
    archive: Path,
    timeout: float,
    limit: int,
    progress: Callable[[str], None],
) -> None:
    """Fetch files of the bundle's folder ``name`` as one archive.

    Args:
        to: the device.
        name: the bundle's folder there.
        pack: what of it, patterns of the shell.
        archive: the file to write; nothing is left of it where this fails.
        timeout: seconds for each connection.
        limit: bytes that the archive may have.
        progress: called with a line of text when a connection broke.

    Raises:
        UserError: the connection broke too often, or there is nothing.
    """
    there = f"{name}.result.tar.gz"
    what = " ".join(f"{name}/{pattern}" for pattern in pack)
    make = f"tar czf {there} $(ls -d {what} 2>/dev/null) && sha256sum {there}"
    digest = ""
    problem: UserError = UserError("")
    try:
        for _ in range(ATTEMPTS):
            try:
                if not digest:
                    status, output = ssh.run(to, ENTER + make, timeout)
                    digest = output.split()[0] if status == 0 and output.split() else ""
                    if not re.fullmatch("[0-9a-f]{64}", digest):
                        raise UserError(f"{to.address} has no results: {text(output)}")
                with archive.open("ab") as file:
                    begin = archive.stat().st_size + 1
                    left = limit - begin + 1
                    ssh.drain(to, ENTER + f"tail -c +{begin} {there}", file, timeout, left)
                if sha256(archive) == digest:
                    ssh.run(to, ENTER + f"rm -f {there}", SHORT)
                    return
                archive.unlink()
                problem = UserError(f"the results of {to.address} do not arrive whole")
            except ssh.ConnectionLostError as error:
                problem = error
                progress(f"the connection to {to.address} broke, going on")
        raise problem
    except BaseException:
        archive.unlink(missing_ok=True)
        raise
