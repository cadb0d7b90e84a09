"""Who may ask: everybody on this machine, or with a token, whoever shows it."""

import hashlib
import hmac
import ipaddress
from pathlib import Path

from daefr.errors import UserError
from pipelines.serve.refusal import RefusedError

LEAST_LENGTH = 16
_SCHEME = "bearer "


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_digest(path: Path | None, host: str) -> bytes | None:
    """Return the digest of the token in a file, None where none is given and none is needed.

    Raises `UserError` where one is needed for `host`, or the file does not have one.
    """
    make = "make one with: python -c 'import secrets; print(secrets.token_hex(32))' > FILE"
    if path is None:
        if is_loopback(host):
            return None
        raise UserError(f"serve.host={host} can be reached from elsewhere, which needs serve.token=FILE; {make}")
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"serve.token={path} cannot be read: {error}; {make}") from None
    if len(token) < LEAST_LENGTH:
        raise UserError(f"serve.token={path} has {len(token)} characters, and {LEAST_LENGTH} are the least; {make}")
    return hashlib.sha256(token.encode()).digest()


def check_token(authorization: str | None, digest: bytes | None) -> None:
    """Raise `RefusedError` unless a request's `Authorization` shows the token of that digest, or none is needed."""
    if digest is None:
        return
    given = authorization or ""
    shown = given[len(_SCHEME) :].strip() if given.lower().startswith(_SCHEME) else ""
    # digests have equal lengths, and are compared in a time that tells nothing of where they differ
    if not hmac.compare_digest(hashlib.sha256(shown.encode(errors="replace")).digest(), digest):
        told = "this service wants a token, as in Authorization: Bearer TOKEN" if not shown else "this is not the token"
        raise RefusedError(401, told, {"WWW-Authenticate": "Bearer"})
