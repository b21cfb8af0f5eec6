"""Locks for stages that variants have in common: the second variant waits, and then finds the result."""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Mapping

from flows.dvc.repo import Stage

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def identities(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return a digest of each stage's settings and of all above it; stages come in dependency order."""
    found: dict[str, str] = {}
    for name, stage in stages.items():
        known = [name, stage.settings, [found[above] for above in stage.upstream]]
        found[name] = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return found


def alone(identity: str) -> threading.Lock:
    """Return the lock that is held while a stage of that identity runs."""
    return _locks[identity]
