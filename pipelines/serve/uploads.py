"""Reading an upload: into memory only, and no more of it than is allowed."""

import asyncio

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from pipelines.serve.budget import Account
from pipelines.serve.refusal import RefusedError
from pipelines.serve.settings import ServeConfig

FORM = "multipart/form-data"
FORM_BYTES = 4096
"""What a form may have around its image."""


async def read_upload(request: Request, settings: ServeConfig, held: Account) -> bytes:
    """Return the image that a request carries, as its body or as the one file of a form.

    Raises `RefusedError` for what is too large, too slow, empty or no such form, and where `held` has no room for it.
    """
    kind = request.headers.get("content-type", "")
    is_form = kind.lower().startswith(FORM)
    most = settings.max_upload_bytes + FORM_BYTES * is_form
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > most:
        raise _too_large(settings)
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(settings.upload_timeout_s):
            async for chunk in request.stream():
                held.take(len(chunk))
                if held.taken > most:
                    raise _too_large(settings)
                parts.append(chunk)
    except TimeoutError:
        raise RefusedError(
            408, f"the image did not arrive in {settings.upload_timeout_s:g} seconds", {"Connection": "close"}
        ) from None
    body = b"".join(parts)
    image = _file_of(body, kind) if is_form else body
    if not image:
        raise RefusedError(400, "there is no image: send one as the body, or as the one file of a form")
    return image


def _too_large(settings: ServeConfig) -> RefusedError:
    return RefusedError(
        413, f"too large: an image may have {settings.max_upload_bytes} bytes here", {"Connection": "close"}
    )


def _file_of(body: bytes, kind: str) -> bytes:
    """Return the one file of a form."""
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
        raise RefusedError(
            400, "the form is damaged: send the image as the body, or as the one file of a form"
        ) from None
    if len(files) != 1:
        raise RefusedError(400, f"the form has {len(files)} parts: one, with the image, is wanted")
    return bytes(files[0])
