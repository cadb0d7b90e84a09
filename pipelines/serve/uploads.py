"""Reads uploads into memory, within limits."""

import asyncio

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from pipelines.serve.budget import Account
from pipelines.serve.rejection import RequestRejectedError
from pipelines.serve.settings import ServeConfig

FORM = "multipart/form-data"
FORM_BYTES = 4096
"""Largest size of a form without its image."""


async def read_upload(request: Request, settings: ServeConfig, queued_bytes: Account) -> bytes:
    """Return the image in a request, which is its body or the only file of a form.

    Raises `RequestRejectedError` if it is too large, slow, empty or malformed, or if `queued_bytes` is exhausted.
    """
    kind = request.headers.get("content-type", "")
    is_form = kind.lower().startswith(FORM)
    limit = settings.max_upload_bytes + FORM_BYTES * is_form
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise _too_large(settings)
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(settings.upload_timeout_s):
            async for chunk in request.stream():
                queued_bytes.take(len(chunk))
                if queued_bytes.taken > limit:
                    raise _too_large(settings)
                parts.append(chunk)
    except TimeoutError:
        raise RequestRejectedError(
            408, f"the upload took more than {settings.upload_timeout_s:g} seconds", {"Connection": "close"}
        ) from None
    body = b"".join(parts)
    image = _file_of(body, kind) if is_form else body
    if not image:
        raise RequestRejectedError(400, "no image; send it as the body, or as the only file of a form")
    return image


def _too_large(settings: ServeConfig) -> RequestRejectedError:
    return RequestRejectedError(
        413, f"the upload is larger than {settings.max_upload_bytes} bytes", {"Connection": "close"}
    )


def _file_of(body: bytes, kind: str) -> bytes:
    """Return the only file of a form."""
    files: list[bytearray] = []
    _, options = parse_options_header(kind)
    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": lambda: files.append(bytearray()),
                "on_part_data": lambda data, start, end: files[-1].extend(data[start:end]),
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise RequestRejectedError(
            400, "malformed form; send the image as the body, or as the only file of a form"
        ) from None
    if len(files) != 1:
        raise RequestRejectedError(400, f"the form has {len(files)} parts; send the image as its only part")
    return bytes(files[0])
