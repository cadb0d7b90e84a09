"""The digest of settings."""

import hashlib
import json
from typing import Any


def digest(settings: Any) -> str:
    """Return a digest of JSON-like settings, which does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
