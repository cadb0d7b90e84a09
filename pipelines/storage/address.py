"""The syntax of an S3 address, for which no S3 client is needed."""

import re
from pathlib import Path
from urllib.parse import quote

SCHEME = "s3://"
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<key>.*))?", re.DOTALL)


def is_address(place: str | Path) -> bool:
    """Tell whether a place is on S3."""
    return isinstance(place, str) and place.startswith(SCHEME)


def split_address(address: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://bucket/key``; raises `ValueError`, which does not repeat its secrets."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            "an S3 address is s3://bucket/prefix; endpoint and credentials come from AWS's variables or profile"
        )
    return match["bucket"], match["key"] or ""


def to_uri(place: str) -> str:
    """Return a place as Ray and pyarrow take it: of an address, a URI; a path as it is."""
    return quote(place, safe=":/") if is_address(place) else place
