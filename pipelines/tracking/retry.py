"""Retries calls while the MLflow server is unreachable."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import requests
from mlflow.exceptions import MlflowException

_UNREACHABLE = ("failed with exception", "failed with timeout", "failed with error code 50")
_PAUSE = 2.0


class RetryingClient:
    """A client that retries calls for up to `timeout_s` while the server is unreachable, logging once per outage."""

    def __init__(self, client: Any, timeout_s: float, log: Callable[[str], None]) -> None:
        """Wrap `client`."""
        self._client, self._timeout_s, self._log = client, timeout_s, log

    def __getattr__(self, name: str) -> Any:
        """Return the client's attribute; methods get retries."""
        found = getattr(self._client, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        deadline, logged = time.monotonic() + self._timeout_s, False
        while True:
            try:
                answer = method(*arguments, **named)
            except Exception as error:
                if not is_unreachable(error) or time.monotonic() > deadline:
                    raise
                if not logged:
                    self._log(f"MLflow server unreachable; retrying for up to {self._timeout_s:.0f} s")
                    logged = True
                time.sleep(_PAUSE)
            else:
                if logged:
                    self._log("MLflow server reachable again")
                return answer


def is_unreachable(error: Exception) -> bool:
    """Return whether an error means that the server did not answer, or only its proxy."""
    if isinstance(error, MlflowException):
        return "API request to" in str(error) and any(sign in str(error) for sign in _UNREACHABLE)
    return isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout)
