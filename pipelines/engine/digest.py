"""The digest of settings."""

import hashlib
import json
from typing import Any


def digest(settings: Any) -> str:
    """Return a digest of JSON-like settings: equal settings, equal digest."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
