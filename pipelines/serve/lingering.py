"""Rejects an upload that is still arriving, in a way that lets the client read the response.

Closing a connection with unread bytes resets it, and a client that is still sending then usually fails before it reads
the response. So the rest of the upload is read and discarded for a while before the connection is closed (RFC 9112,
section 9.6).
"""

import asyncio

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

LINGER_SECONDS = 30
"""How long the rest of an upload is read."""
SILENCE_SECONDS = 5
"""How long a client may send nothing meanwhile."""


class LingeringResponse(JSONResponse):
    """Responds at once, and ends with the request's body, when the client disconnects, or after a time-out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the response, then read and discard the rest of the request."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while await _discard(receive):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> bool:
    """Discard the next part of a body; return whether there may be another."""
    async with asyncio.timeout(SILENCE_SECONDS):
        message = await receive()
    return message["type"] == "http.request" and bool(message.get("more_body"))
