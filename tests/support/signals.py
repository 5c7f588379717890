"""Signals in processes that tests start."""

from __future__ import annotations

import signal


def listen() -> None:
    """Ctrl-C counts again: what runs in the background of a shell has been told to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
