"""The system's ssh: keys, configuration and host key checking as the user has them."""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from prunedeploy.errors import UserError

LOST = 255  # ssh's own exit status; that of the command otherwise
# behind the user's own options, of which ssh takes the first
DEFAULTS = (
    *("-T", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
)


class ConnectionLostError(UserError):
    """The connection could not be made, or broke."""


class SilenceError(UserError):
    """The device does not answer any more."""


@dataclass(frozen=True)
class Host:
    """``address`` as ssh takes it; ``options`` of ssh itself, in front of ours."""

    address: str
    options: tuple[str, ...] = ()

    def command(self, script: str) -> list[str]:
        """How ``script`` is run there, whichever shell the user logs in with."""
        ssh = shutil.which("ssh")
        if ssh is None:
            raise UserError("no ssh here: install it (apt install openssh-client)")
        # nobody can answer a question where there is no terminal
        batch = () if sys.stdin is not None and sys.stdin.isatty() else ("-o", "BatchMode=yes")
        remote = f"sh -c {shlex.quote(script)}"
        return [ssh, *self.options, *DEFAULTS, *batch, "--", self.address, remote]


def host(address: str, options: Sequence[str] = ()) -> Host:
    """The host called ``address``, with options such as "-p 2222", each split as a shell does.

    Raises:
        UserError: it is no address.
    """
    if not address or address.startswith("-") or any(x.isspace() for x in address):
        raise UserError(f"{address!r} is no address: give user@host, or a name of your ssh config")
    try:
        return Host(address, tuple(word for option in options for word in shlex.split(option)))
    except ValueError as error:
        raise UserError(f"cannot read the ssh options: {error}") from None


def run(to: Host, script: str, timeout: float) -> tuple[int, str]:
    """Exit status and output of a short script.

    Raises:
        ConnectionLostError: there is no connection.
        SilenceError: it took too long.
    """
    process = _start(to, script, subprocess.DEVNULL, subprocess.PIPE)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise SilenceError(f"{to.address} did not answer within {timeout:.0f} s") from None
    finally:
        _end(process)
    if process.returncode == LOST:
        raise _lost(to, errors)
    return process.returncode, (output + errors).decode(errors="replace")


def feed(to: Host, script: str, source: BinaryIO, timeout: float) -> None:
    """Run ``script`` with what is left of ``source`` on its standard input.

    Raises:
        ConnectionLostError: the connection broke, wherever.
        SilenceError: it took too long.
        UserError: the script failed.
    """
    process = _start(to, script, source, subprocess.PIPE)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise SilenceError(f"{to.address} took longer than {timeout:.0f} s for a file") from None
    finally:
        _end(process)
    if process.returncode == LOST:
        raise _lost(to, errors)
    if process.returncode != 0:
        said = (errors or output).decode(errors="replace").strip() or "no message"
        raise UserError(f"{to.address} cannot store the bundle: {said}")


def drain(to: Host, script: str, place: BinaryIO, timeout: float) -> None:
    """Append the output of ``script`` to the open file ``place``.

    Raises:
        ConnectionLostError: the connection broke; what came until then is in the file.
        SilenceError: it took too long.
    """
    process = _start(to, script, subprocess.DEVNULL, place)
    try:
        _, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise SilenceError(f"{to.address} took longer than {timeout:.0f} s for a file") from None
    finally:
        _end(process)
    if process.returncode == LOST:
        raise _lost(to, errors)
    if process.returncode != 0:
        raise UserError(f"{to.address} has lost its results: {errors.decode(errors='replace')}")


def lines(to: Host, script: str, take: Callable[[str], None], timeout: float, quiet: float) -> int:
    """Give every line of the output of ``script`` to ``take`` as it comes; the exit status.

    Raises:
        ConnectionLostError: the connection broke.
        SilenceError: no line within ``quiet`` seconds, or no end within ``timeout``.
    """
    process = _start(to, script, subprocess.DEVNULL, subprocess.PIPE)
    stream = process.stdout
    assert stream is not None
    arrived: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            arrived.put(line)
        arrived.put(None)

    errors: list[bytes] = []
    readers = [
        threading.Thread(target=read, daemon=True),
        threading.Thread(target=lambda: errors.append(_all(process)), daemon=True),
    ]
    for reader in readers:
        reader.start()
    end = time.monotonic() + timeout
    try:
        while True:
            left = end - time.monotonic()
            try:
                line = arrived.get(timeout=max(0.0, min(quiet, left)))
            except queue.Empty:
                what = (
                    f"nothing for {quiet:.0f} s" if quiet < left else f"no end in {timeout:.0f} s"
                )
                raise SilenceError(f"{to.address} hangs: {what}") from None
            if line is None:
                break
            take(line.decode(errors="replace").rstrip("\n"))
        status = process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        raise SilenceError(f"{to.address} hangs at the end") from None
    finally:
        _end(process)
    if status == LOST:
        readers[1].join(5)
        raise _lost(to, b"".join(errors))
    return status


def _all(process: subprocess.Popen[bytes]) -> bytes:
    return process.stderr.read() if process.stderr is not None else b""


def _start(
    to: Host, script: str, source: int | BinaryIO, place: int | BinaryIO
) -> subprocess.Popen[bytes]:
    """ssh; its messages are in English, because we look for words in them."""
    return subprocess.Popen(
        to.command(script),
        stdin=source,
        stdout=place,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing is left running, whatever happened."""
    if process.poll() is None:
        process.kill()
    process.wait()


def _lost(to: Host, errors: bytes) -> ConnectionLostError:
    said = [x.strip() for x in errors.decode(errors="replace").splitlines() if x.strip()]
    why = said[-1] if said else "the connection broke"
    advice = ""
    if "Host key verification" in why or "REMOTE HOST IDENTIFICATION" in " ".join(said):
        advice = f"; its host key is not the known one, or not known yet: try ssh {to.address}"
    elif "Permission denied" in why:
        advice = f"; set up a key for it: ssh-copy-id {to.address}"
    return ConnectionLostError(f"no connection to {to.address}: {why}{advice}")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0
