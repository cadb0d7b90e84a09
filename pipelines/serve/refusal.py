"""How the service says no: a status, and one sentence for whoever asked."""

from collections.abc import Mapping


class RefusedError(Exception):
    """A request that is not served. Its text is the sentence of the answer."""

    def __init__(self, status: int, told: str, headers: Mapping[str, str] | None = None) -> None:
        """Refuse with an HTTP status, and headers such as `Retry-After`."""
        super().__init__(told)
        self.status, self.headers = status, dict(headers or {})

    @property
    def closes(self) -> bool:
        """Whether the connection is to be closed, as more of a request may come that is not read."""
        return self.headers.get("Connection") == "close"
