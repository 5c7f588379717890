"""How a server is to run."""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.core.errors import UserError
from prunedeploy.engines.request import check_threads

MIB = 1 << 20


@dataclass(frozen=True)
class ServeOptions:
    """The settings of a server; each holds for every engine of it.

    Attributes:
        threads: that a run computes with; 0 leaves it to the runtime.
        sessions: runs of an engine at a time.
        max_batch: samples of several requests in one run; 0 for the largest batch that the engine
            was built for, 1 to compute every request by itself.
        max_delay_ms: milliseconds that a request waits for others while a session is free.
        max_queue: requests of a model that may be pending; others get 503.
        max_body_mb: MiB of a request; larger ones get 413.
        drain_s: seconds after SIGTERM in which requests are still taken, while ``/v2/health/ready``
            says no, so that balancers and clients with open connections can turn elsewhere.

    Raises:
        UserError: a number that cannot be.
    """

    threads: int = 0
    sessions: int = 1
    max_batch: int = 0
    max_delay_ms: float = 0.0
    max_queue: int = 256
    max_body_mb: float = 64.0
    drain_s: float = 1.0

    def __post_init__(self) -> None:
        check_threads(self.threads)
        for name, minimum in (
            *(("sessions", 1), ("max_batch", 0), ("max_delay_ms", 0), ("max_queue", 1)),
            *(("max_body_mb", 0.001), ("drain_s", 0)),
        ):
            if not minimum <= (value := getattr(self, name)) < 1e9:
                raise UserError(f"{name} must be at least {minimum}, found {value}")

    @property
    def max_body(self) -> int:
        """Bytes of a request at most."""
        return int(self.max_body_mb * MIB)
