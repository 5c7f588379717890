"""Starts the server and ends it: a socket, the engines, uvicorn, signals."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Engine
from prunedeploy.engines import engine_folder
from prunedeploy.serving.http.app import State, application
from prunedeploy.serving.http.metrics import Metrics
from prunedeploy.serving.http.model import ServedModel
from prunedeploy.serving.http.options import ServeOptions
from prunedeploy.serving.names import model_name

KEEP_ALIVE = 75  # seconds that a connection may be idle
BACKLOG = 2048


def serve(
    engines: Sequence[str | Path] | Mapping[str, str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    options: ServeOptions | None = None,
    started: Callable[[str, Sequence[ServedModel]], None] | None = None,
) -> None:
    """Serve engines over HTTP until SIGTERM or Ctrl-C, then finish what was begun.

    Args:
        engines: folders that ``build`` wrote, by the names that clients use; without names they
            have those of their folders.
        host: the address to listen at; ``0.0.0.0`` for all of this machine's.
        port: 0 for one that is free.
        options: see ``ServeOptions``.
        started: called with the server's URL and its models once it takes requests.

    Returns:
        Once all that was begun is finished.

    Raises:
        MissingExtra: the libraries of extra ``serve`` are not installed.
        UserError: an engine cannot be served, two have one name, or the address is taken.

    Example:
        >>> import prunedeploy
        >>> prunedeploy.serve({"net": "net.engine"}, port=8000)  # doctest: +SKIP
    """
    _check_installed()
    chosen = options or ServeOptions()
    named = _read(engines)
    with _listening(host, port) as listener:
        metrics = Metrics()
        models = {
            name: ServedModel(engine, name, chosen, metrics.computed)
            for name, engine in named.items()
        }
        state = State(models, metrics, chosen.max_body)
        asyncio.run(_run(listener, state, chosen.drain_s, started))


def _check_installed() -> None:
    try:
        import fastapi
        import orjson
        import prometheus_client
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "fastapi", "serve") from None
    del fastapi, orjson, prometheus_client, uvicorn


def _read(engines: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Engine]:
    """The engines by name."""
    items = engines.items() if isinstance(engines, Mapping) else [("", path) for path in engines]
    named: dict[str, Engine] = {}
    for given, path in items:
        engine = engine_folder.read_engine(path)
        name = model_name(engine, given)
        if name in named:
            raise UserError(f"two engines are called {name}: name one, as in other={path}")
        named[name] = engine
    if not named:
        raise UserError("no engine to serve: name the folder of one")
    return named


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is not this machine's, or is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        # without what create_server adds to it, which is the same address again
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise UserError(f"cannot listen at {host}:{port}: {reason}; give another --port") from None
    # Connections inherit it. Without it the body of an answer waits until its head is acknowledged,
    # for 40 ms; asyncio does not set it for a socket that it did not make.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _run(
    listener: socket.socket,
    state: State,
    drain: float,
    started: Callable[[str, Sequence[ServedModel]], None] | None,
) -> None:
    import uvicorn

    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    loop = asyncio.get_running_loop()

    def end() -> None:
        """On the first signal let clients turn elsewhere for a while, on the second do not."""
        loop.call_later(0 if state.draining else drain, setattr, server, "should_exit", True)
        state.draining = True

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        for model in state.models.values():
            model.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)  # in the place of uvicorn's, which have no drain
        if started is not None:
            started(url, tuple(state.models.values()))
        yield
        for model in state.models.values():
            await model.stop()

    config = uvicorn.Config(
        application(state, lifespan()),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        server_header=False,
    )
    server = uvicorn.Server(config)
    await server.serve(sockets=[listener])
