"""Calls to an MLflow server that may be away for a while: what is asked of it waits until it is back."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import requests
from mlflow.exceptions import MlflowException

_AWAY = ("failed with exception", "failed with timeout", "failed with error code 50")
_PAUSE = 2.0


class Patient:
    """A client whose methods are called again while the server is away, for at most `seconds`; it says so once."""

    def __init__(self, client: Any, seconds: float, say: Callable[[str], None]) -> None:
        """Stand for `client`."""
        self._client, self._seconds, self._say = client, seconds, say

    def __getattr__(self, name: str) -> Any:
        """Return the client's attribute, a method made patient."""
        found = getattr(self._client, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        deadline, told = time.monotonic() + self._seconds, False
        while True:
            try:
                answer = method(*arguments, **named)
            except Exception as error:
                if not is_away(error) or time.monotonic() > deadline:
                    raise
                if not told:
                    self._say(f"the MLflow server is away; it is waited for, up to {self._seconds:.0f} s")
                    told = True
                time.sleep(_PAUSE)
            else:
                if told:
                    self._say("the MLflow server is back")
                return answer


def is_away(error: Exception) -> bool:
    """Tell whether an error means that nobody answered, or that a proxy did in the server's place."""
    if isinstance(error, MlflowException):
        return "API request to" in str(error) and any(sign in str(error) for sign in _AWAY)
    return isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout)
