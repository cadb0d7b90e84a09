"""Refusing an upload while it still arrives, so that the client reads the refusal.

A connection that is closed with unread bytes is reset, and a client that is still sending then reports the reset: most
never get to read the answer, which was sent before. So the answer is sent first, then what still arrives is read and
dropped for a while, and only then the connection is closed (RFC 9112, section 9.6).
"""

import asyncio

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

LINGER_SECONDS = 30
"""For how long a client may go on sending what nobody wants."""
SILENCE_SECONDS = 5
"""And for how long it may send nothing."""


class LingeringResponse(JSONResponse):
    """Answers at once, and ends when the request's body has, its client has gone, or the time is over."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send, then read and drop the rest of the request."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while await _arrives(receive):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _arrives(receive: Receive) -> bool:
    """Drop the next part of a body; return whether there may be another."""
    async with asyncio.timeout(SILENCE_SECONDS):
        message = await receive()
    return message["type"] == "http.request" and bool(message.get("more_body"))
