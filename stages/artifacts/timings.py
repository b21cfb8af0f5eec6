"""How long things take here: measured numbers that belong to this machine, and so to no output."""

import json
from pathlib import Path

from filelock import FileLock

from fewstep.files import written_whole


def read(file: Path) -> dict[str, float]:
    """Return the seconds that were noted last, by name."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def note(file: Path, name: str, seconds: float) -> None:
    """Note a measurement in place of the last one of that name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # stages may run at the same time
        text = json.dumps(read(file) | {name: seconds}, sort_keys=True, indent=1)
        with written_whole(file) as temporary:
            temporary.write_text(text)
