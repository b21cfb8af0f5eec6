"""JSON objects that carry the checksum of what else they say, so that damage is never taken for content."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with its checksum added."""
    return {**content, SEAL: _checksum(content)}


def unseal(sealed: Any) -> dict[str, Any]:
    """Return an object as it was before `seal`.

    Raises:
        ValueError: if it is no object, has no checksum, or says something else than when it was sealed.
    """
    if not isinstance(sealed, dict) or SEAL not in sealed:
        raise ValueError("it has no checksum")
    content = {name: value for name, value in sealed.items() if name != SEAL}
    if sealed[SEAL] != _checksum(content):
        raise ValueError("its checksum is another")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(content))  # JSON turns tuples into lists, and keys into texts
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()
