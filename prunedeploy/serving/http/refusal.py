"""The answer to a request that is not computed."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request is answered with an HTTP status and one line that says why.

    Args:
        status: of HTTP, 400 to 599.
        reason: what is wrong with the request, or with the server.
        retry_after: seconds after which trying again makes sense; 0 where it does not.
    """

    def __init__(self, status: int, reason: str, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.status, self.reason = status, " ".join(reason.split())
        self.retry_after = retry_after
