"""Budgets that the requests of a replica share, which limit its memory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from pipelines.serve.rejection import RequestRejectedError

SECONDS_UNTIL_RETRY = 5


class Budget:
    """A limited amount, for use in one event loop."""

    def __init__(self, total: int) -> None:
        """Begin with everything free."""
        self._free = total
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def reserve(self, amount: int) -> AsyncIterator[None]:
        """Reserve an amount while the block runs, after waiting for it. It must not exceed the total."""
        async with self._turn:  # in order of arrival, so that large requests do not starve
            while amount > self._free:
                self._freed.clear()
                await self._freed.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._freed.set()

    @contextmanager
    def account(self) -> Iterator["Account"]:
        """Yield an account that takes amounts without waiting, and frees them when the block is done."""
        account = Account(self)
        try:
            yield account
        finally:
            self._free += account.taken

    def take(self, amount: int) -> None:
        """Take an amount. Raises `RequestRejectedError` if it is not free."""
        if amount > self._free:
            message = f"the service is overloaded; retry in {SECONDS_UNTIL_RETRY} seconds"
            raise RequestRejectedError(503, message, {"Retry-After": str(SECONDS_UNTIL_RETRY)})
        self._free -= amount


class Account:
    """The amount that one request has taken from a budget."""

    def __init__(self, budget: Budget) -> None:
        """Begin with nothing."""
        self._budget, self.taken = budget, 0

    def take(self, amount: int) -> None:
        """Take more. Raises `RequestRejectedError` if it is not free."""
        self._budget.take(amount)
        self.taken += amount
