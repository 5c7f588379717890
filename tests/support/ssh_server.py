"""A real SSH server on the loopback, whose machine is this one with a home folder of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh


@dataclass
class Device:
    """``cut`` are the bytes after which each connection in turn that carries a file is broken."""

    home: Path
    keys: Path
    port: int = 0
    path: str = ""  # put in front of PATH
    cut_in: list[int] = field(default_factory=list)
    cut_out: list[int] = field(default_factory=list)
    deaf: bool = False  # takes connections and never runs anything
    commands: list[str] = field(default_factory=list)
    received: list[int] = field(default_factory=list)  # bytes of each file sent to it

    @property
    def options(self) -> tuple[str, ...]:
        """For ssh: its configuration, and nothing of the user's."""
        return (f"-F {self.keys / 'config'}",)

    def configure(self, known: str = "known") -> None:
        lines = {
            "Port": self.port,
            "HostName": "127.0.0.1",
            "User": "tester",
            "IdentityFile": self.keys / "client",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.keys / known,
            "StrictHostKeyChecking": "yes",
        }
        text = "".join(f"    {key} {value}\n" for key, value in lines.items())
        (self.keys / "config").write_text(f"Host device\n{text}")

    async def handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        self.commands.append(command)
        if self.deaf:
            await asyncio.sleep(3600)
        environment = {**os.environ, "HOME": str(self.home)}
        environment["PATH"] = (
            f"{self.path}:{environment['PATH']}" if self.path else os.environ["PATH"]
        )
        child = await asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=self.home,
            start_new_session=True,
        )
        try:
            await asyncio.gather(
                self._give(process, child, "copyfileobj" in command),
                self._take(process, child.stdout, process.stdout, "tail -c" in command),
                self._take(process, child.stderr, process.stderr, False),
            )
            process.exit(await child.wait())
        except (ConnectionError, asyncssh.Error, BrokenPipeError):
            with suppress(OSError):
                child.stdin.close()
        finally:
            await child.wait()

    async def _give(self, process: Any, child: Any, is_file: bool) -> None:
        limit = self.cut_in.pop(0) if is_file and self.cut_in else None
        count = 0
        try:
            while chunk := await process.stdin.read(16384):
                if limit is not None and count + len(chunk) > limit:
                    child.stdin.write(chunk[: limit - count])
                    count = limit
                    await child.stdin.drain()
                    await asyncio.sleep(0.5)  # until it has written what it was given
                    process.channel.get_connection().abort()
                    raise ConnectionError
                child.stdin.write(chunk)
                count += len(chunk)
                await child.stdin.drain()
        except BrokenPipeError:
            pass
        finally:
            if is_file:
                self.received.append(count)
            child.stdin.close()

    async def _take(self, process: Any, source: Any, to: Any, is_file: bool) -> None:
        limit = self.cut_out.pop(0) if is_file and self.cut_out else None
        count = 0
        while chunk := await source.read(16384):
            if limit is not None and count + len(chunk) > limit:
                to.write(chunk[: limit - count])
                await to.drain()
                await asyncio.sleep(0.2)  # for it to be on its way
                process.channel.get_connection().abort()
                raise ConnectionError
            to.write(chunk)
            count += len(chunk)
            await to.drain()


@contextmanager
def device(folder: Path) -> Iterator[Device]:
    """A running server, with a key for its client."""
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    (folder / "home").mkdir()
    host, client = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    client.write_private_key(keys / "client")
    (keys / "client").chmod(0o600)
    client.write_public_key(keys / "authorized")
    found = Device(folder / "home", keys)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host],
            authorized_client_keys=str(keys / "authorized"),
            process_factory=found.handle,
            encoding=None,
        )

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(20)
    try:
        found.port = server.get_port()
        public = host.export_public_key().decode().strip()
        (keys / "known").write_text(f"[127.0.0.1]:{found.port} {public}\n")
        (keys / "none").write_text("")
        found.configure()
        yield found
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        for file in found.home.rglob("bench.pid"):  # what a test left running
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)
