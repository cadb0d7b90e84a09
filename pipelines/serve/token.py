"""Authentication with a bearer token, which is optional on loopback addresses."""

import hashlib
import hmac
import ipaddress
from pathlib import Path

from daefr.errors import UserError
from pipelines.serve.rejection import RequestRejectedError

MIN_LENGTH = 16
_SCHEME = "bearer "


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_digest(path: Path | None, host: str) -> bytes | None:
    """Return the digest of the token in a file, None if `path` is None.

    Raises `UserError` if `host` requires a token, or if the file does not contain one.
    """
    create = "create one with: python -c 'import secrets; print(secrets.token_hex(32))' > FILE"
    if path is None:
        if is_loopback(host):
            return None
        raise UserError(f"serve.host={host} requires serve.token=FILE, because other machines can reach it; {create}")
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"serve.token={path} cannot be read: {error}; {create}") from None
    if len(token) < MIN_LENGTH:
        raise UserError(f"serve.token={path} has {len(token)} characters; at least {MIN_LENGTH} are required; {create}")
    return hashlib.sha256(token.encode()).digest()


def check_token(authorization: str | None, digest: bytes | None) -> None:
    """Raise `RequestRejectedError` unless a request's `Authorization` header has the token with that digest, if any."""
    if digest is None:
        return
    header = authorization or ""
    token = header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else ""
    if not hmac.compare_digest(hashlib.sha256(token.encode(errors="replace")).digest(), digest):
        message = "wrong token" if token else "this service requires a token: Authorization: Bearer TOKEN"
        raise RequestRejectedError(401, message, {"WWW-Authenticate": "Bearer"})
