"""What the requests of one replica share, so that however many there are, its memory has a bound."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from pipelines.serve.refusal import RefusedError

SECONDS_UNTIL_RETRY = 5


class Budget:
    """An amount of something. Used from one event loop only."""

    def __init__(self, whole: int) -> None:
        """Begin with all of it free."""
        self._free = whole
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def share(self, amount: int) -> AsyncIterator[None]:
        """Hold an amount while the block runs, after waiting for others to free it. It must not exceed the whole."""
        async with self._turn:  # who came first is served first, however much it wants
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
        """Give an account to take from while the block runs, without waiting."""
        account = Account(self)
        try:
            yield account
        finally:
            self._free += account.taken

    def take(self, amount: int) -> None:
        """Take an amount. Raises `RefusedError` where it is not free."""
        if amount > self._free:
            told = "the service has as much to do as it can hold: try again in some seconds"
            raise RefusedError(503, told, {"Retry-After": str(SECONDS_UNTIL_RETRY)})
        self._free -= amount


class Account:
    """What one request has taken of a budget."""

    def __init__(self, budget: Budget) -> None:
        """Begin with nothing."""
        self._budget, self.taken = budget, 0

    def take(self, amount: int) -> None:
        """Take more. Raises `RefusedError` where it is not free."""
        self._budget.take(amount)
        self.taken += amount
