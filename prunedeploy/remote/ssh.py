"""The system's ssh: keys, configuration and host key checking as the user has them."""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from prunedeploy.core.errors import UserError
from prunedeploy.remote.untrusted import text

CHUNK = 1 << 16
MAX_OUTPUT = 1 << 20  # bytes that a short script says, and of messages that are kept
LONGEST_LINE = 64 << 20  # bytes; one holds all results as far as they have come
LONGEST_WAIT = 3600.0  # seconds that a selector is given at once
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
        UserError: it says more than a script that only looks.
    """
    reply = bytearray()
    with _running(to, script, subprocess.DEVNULL) as process:
        errors = _talk(process, to, reply.extend, timeout, f"did not answer within {timeout:.0f} s")
    if process.returncode == LOST:
        raise _lost(to, errors)
    return process.returncode, (bytes(reply) + errors).decode(errors="replace")


def feed(to: Host, script: str, source: BinaryIO, timeout: float) -> None:
    """Run ``script`` with what is left of ``source`` on its standard input.

    Raises:
        ConnectionLostError: the connection broke, wherever.
        SilenceError: it took too long.
        UserError: the script failed.
    """
    reply = bytearray()
    slow = f"took longer than {timeout:.0f} s for a file"
    with _running(to, script, source) as process:
        errors = _talk(process, to, reply.extend, timeout, slow)
    if process.returncode == LOST:
        raise _lost(to, errors)
    if process.returncode != 0:
        reason = text((errors or bytes(reply)).decode(errors="replace")) or "no message"
        raise UserError(f"{to.address} cannot store the bundle: {reason}")


def drain(to: Host, script: str, file: BinaryIO, timeout: float, limit: int) -> None:
    """Append the output of ``script``, ``limit`` bytes at most, to the open file ``file``.

    Raises:
        ConnectionLostError: the connection broke; what came until then is in the file.
        SilenceError: it took too long.
        UserError: there is more, or the script failed.
    """
    slow = f"took longer than {timeout:.0f} s for a file"
    with _running(to, script, subprocess.DEVNULL) as process:
        errors = _talk(process, to, file.write, timeout, slow, limit=limit)
    if process.returncode == LOST:
        raise _lost(to, errors)
    if process.returncode != 0:
        raise UserError(
            f"{to.address} has lost its results: {text(errors.decode(errors='replace'))}"
        )


def lines(to: Host, script: str, take: Callable[[str], None], timeout: float, quiet: float) -> int:
    """Give every line of the output of ``script`` to ``take`` as it comes; the exit status.

    Raises:
        ConnectionLostError: the connection broke.
        SilenceError: nothing within ``quiet`` seconds, or no end within ``timeout``.
        UserError: a line has no end.
    """
    begun = bytearray()

    def split(data: bytes) -> None:
        begun.extend(data)
        if b"\n" in data:
            *whole, rest = bytes(begun).split(b"\n")
            begun[:] = rest
            for line in whole:
                take(line.decode(errors="replace"))
        if len(begun) > LONGEST_LINE:
            raise UserError(f"{to.address} sends a line without an end: no program of ours does")

    end = f"hangs: no end in {timeout:.0f} s"
    with _running(to, script, subprocess.DEVNULL) as process:
        errors = _talk(process, to, split, timeout, end, quiet=quiet, limit=None)
    if begun:
        take(begun.decode(errors="replace"))
    if process.returncode == LOST:
        raise _lost(to, errors)
    return process.returncode


def _talk(
    process: subprocess.Popen[bytes],
    to: Host,
    take: Callable[[bytes], object],
    timeout: float,
    slow: str,
    *,
    quiet: float | None = None,
    limit: int | None = MAX_OUTPUT,
) -> bytes:
    """Give the output to ``take`` as it comes, in memory that does not grow with it.

    Args:
        process: ssh.
        to: the device, for messages.
        take: given the bytes.
        timeout: seconds until the end.
        slow: what the device does where that passes.
        quiet: seconds without any output.
        limit: bytes of the output, at most.

    Returns:
        The end of its messages, once it has ended.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    errors, total = bytearray(), 0
    end = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        heard = time.monotonic()
        while selector.get_map():
            now = time.monotonic()
            if now >= end:
                raise SilenceError(f"{to.address} {slow}")
            if quiet is not None and now - heard >= quiet:
                raise SilenceError(f"{to.address} hangs: nothing for {quiet:.0f} s")
            wait = end - now if quiet is None else min(end - now, heard + quiet - now)
            for key, _ in selector.select(min(wait, LONGEST_WAIT)):
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    errors = (errors + data)[-MAX_OUTPUT:]
                else:
                    heard = time.monotonic()
                    total += len(data)
                    if limit is not None and total > limit:
                        raise UserError(f"{to.address} sends more than {limit:,} bytes: given up")
                    take(data)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        raise SilenceError(f"{to.address} hangs at the end") from None
    return bytes(errors)


@contextmanager
def _running(to: Host, script: str, source: int | BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """ssh, which is not left running, whatever happens; its messages are in English, because we
    look for words in them."""
    process = subprocess.Popen(
        to.command(script),
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _lost(to: Host, errors: bytes) -> ConnectionLostError:
    lines = [text(x) for x in errors.decode(errors="replace").splitlines() if x.strip()]
    why = lines[-1] if lines else "the connection broke"
    advice = ""
    if "Host key verification" in why or "REMOTE HOST IDENTIFICATION" in " ".join(lines):
        advice = f"; its host key is not the known one, or not known yet: try ssh {to.address}"
    elif "Permission denied" in why:
        advice = f"; set up a key for it: ssh-copy-id {to.address}"
    return ConnectionLostError(f"no connection to {to.address}: {why}{advice}")
