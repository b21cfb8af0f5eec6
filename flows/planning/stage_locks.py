"""Stages of several variants that are one and the same: who comes second waits, and finds the result made."""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Mapping

from flows.dvc.repo import Stage

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def identities(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return of each stage, given in dependency order, a digest of its settings and of what it rests on."""
    found: dict[str, str] = {}
    for name, stage in stages.items():
        known = [name, stage.settings, [found[above] for above in stage.upstream]]
        found[name] = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return found


def alone(identity: str) -> threading.Lock:
    """Return the lock that the one holds which has its turn."""
    return _locks[identity]
