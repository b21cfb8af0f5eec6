"""How fast models sample here: measured numbers that belong to this machine, and so to no output."""

import json
from pathlib import Path

from filelock import FileLock

from fewstep.files import written_whole
from stages.artifacts.scratch import state


def file() -> Path:
    """Return the file that holds them."""
    return state() / "timings.json"


def read() -> dict[str, float]:
    """Return the seconds per 1000 samples that were measured last, by a name such as boss-4@4."""
    try:
        return json.loads(file().read_text())
    except (FileNotFoundError, ValueError):
        return {}


def record_timing(name: str, seconds_per_1000: float) -> None:
    """Note a measurement in place of the last one of that name."""
    file().parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file().with_suffix(".lock")):  # stages may run at the same time
        text = json.dumps(read() | {name: seconds_per_1000}, sort_keys=True, indent=1)
        with written_whole(file()) as temporary:
            temporary.write_text(text)
