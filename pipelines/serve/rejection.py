"""The error of a rejected request."""

from collections.abc import Mapping


class RequestRejectedError(Exception):
    """A request was rejected; the message is sent to the client."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Reject with an HTTP status, and headers such as `Retry-After`."""
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})

    @property
    def closes(self) -> bool:
        """Whether the connection is closed, because the rest of the request is not read."""
        return self.headers.get("Connection") == "close"
